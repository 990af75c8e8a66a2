# The image of wgroutemgr: Python, BusyBox's `ip`, `nsenter` and `sh`, the program; nothing more.
# The base may be replaced (--build-arg BASE=...) by any image that has those, and pip to build with.
ARG BASE=python:3.14.7-alpine3.24

FROM ${BASE} AS build
COPY requirements.txt /tmp/requirements.txt
RUN python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --no-cache-dir --no-compile --require-hashes --only-binary :all: \
        --target /opt/site-packages --requirement /tmp/requirements.txt && \
    rm -rf /opt/site-packages/*/tests

# The bill of materials (CycloneDX): of exactly the folder that goes into the image, by CycloneDX's
# own tool. Both are shown to it as environments of their own, or it would see pip and itself.
FROM build AS sbom
COPY tests/sbom.txt /tmp/
RUN python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --no-cache-dir --no-compile --no-deps --require-hashes --only-binary :all: \
        --target /opt/tool --requirement /tmp/sbom.txt && \
    for each in tool site-packages; do \
        python3 -m venv --without-pip /tmp/$each && \
        echo /opt/$each >"$(echo /tmp/$each/lib/python*/site-packages)/$each.pth" || exit; \
    done
COPY pyproject.toml lib/settings.py /tmp/
RUN cd /tmp && \
    version=$(python3 -c 'import settings; print(settings.VERSION)') && \
    sed -i "s/^dynamic = .*/version = \"$version\"/" pyproject.toml && \
    PYTHONWARNINGS=ignore tool/bin/python3 -m cyclonedx_py environment --output-reproducible \
        --no-validate --pyproject pyproject.toml --output-file /opt/sbom.cdx.json site-packages

FROM ${BASE}
# Nothing is installed from here on, by us or by anybody.
RUN python3 -B -m pip uninstall --quiet --yes --disable-pip-version-check --root-user-action ignore pip && \
    rm -rf "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip"
ENV PYTHONPATH=/opt/site-packages PYTHONUNBUFFERED=1
COPY --from=build /opt/site-packages /opt/site-packages
# The official images come without the standard library's byte code, and a read-only root file
# system would have every start compile it again. Importing what the program imports compiles
# exactly that. First what changes seldom, so that a change of the program builds quickly.
RUN python3 -c 'import argparse, docker, sh, structlog'
COPY --from=sbom /opt/sbom.cdx.json /opt/wgroutemgr/
COPY wgroutemgr.py /opt/wgroutemgr/
COPY lib/ /opt/wgroutemgr/lib/
RUN cd /opt/wgroutemgr && python3 -m compileall -q . && python3 -c 'import wgroutemgr, lib.daemon, lib.cli.commandline, lib.cli.commands, lib.doctor.report' && \
    printf '#!/bin/sh\nexec python3 /opt/wgroutemgr/wgroutemgr.py "$@"\n' >/usr/local/bin/wgroutemgr && \
    chmod +x /usr/local/bin/wgroutemgr

# From here on nothing writes byte code: in a container it would only fail or be thrown away.
ENV PYTHONDONTWRITEBYTECODE=1
STOPSIGNAL SIGTERM
# Healthy means that routes are being served. No start of Python, and nothing is written.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["sh", "/opt/wgroutemgr/lib/health.sh"]
ENTRYPOINT ["python3", "/opt/wgroutemgr/wgroutemgr.py"]

ARG VERSION=unreleased
LABEL org.opencontainers.image.title="wgroutemgr" \
      org.opencontainers.image.description="Gives labelled containers their routes through a WireGuard container" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      wgroutemgr.role="sidecar"
