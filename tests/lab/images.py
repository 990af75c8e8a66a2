"""The images of the lab, made without a registry and kept as files in the tree's `.cache`.

Each image has a recipe; what goes into it makes its key, and an image of that key is made once and
loaded from then on. Nothing here installs on the machine or fetches a container image, except
that `product()` may be told to try the real base first.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.lab import install
from tests.lab.engine import LABEL, Docker, run
from tests.lab.errors import LabError

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "lab"

CLIENT = "wgroutemgr-lab/client"
WIREGUARD = "wgroutemgr-lab/wireguard"
BASE = "wgroutemgr-lab/base"
BUILD = "wgroutemgr-lab/build"
PRODUCT = "wgroutemgr:lab"
ALL = (CLIENT, WIREGUARD, BASE, BUILD, PRODUCT)

PULL_SECONDS = 20
PULLED = CACHE / "pulled"
FOLDERS = ("/usr/local/bin", "/usr/local/sbin", "/usr/sbin", "/usr/bin")

# What no container of ours reads; it would double the size.
SURPLUS = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/perl5",
    "usr/share/zoneinfo",
    "usr/lib/*/gconv",
    "usr/lib/*/perl-base",
    "usr/lib/python3*/test",
    "usr/lib/python3*/pydoc_data",
    "usr/lib/python3*/EXTERNALLY-MANAGED",
)

# Does nothing, and ends at once when told to, as the first process too.
WAIT = ("sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done")
PINS = (ROOT / "requirements.txt", ROOT / "tests/sbom.txt")
"""What a build of the product installs."""

GATEWAY = (Path(__file__).parent / "gateway.sh").read_text(encoding="utf-8")


def client(engine: Docker) -> str:
    """A container to give routes to: BusyBox and nothing else."""
    return _imported(engine, CLIENT, _client_tree, [], f"CMD {json.dumps(WAIT)}")


def wireguard(engine: Docker) -> str:
    """A WireGuard container: `wg`, `wireguard-go` and a start script, see `gateway.sh`."""
    return _imported(engine, WIREGUARD, _wireguard_tree, [GATEWAY], 'CMD ["/gateway"]')


def base(engine: Docker) -> str:
    """The stand-in for the Alpine base: Python, pip, BusyBox first, our wheels; no network."""
    return _imported(engine, BASE, _base_tree, _pins(), 'CMD ["python3"]')


def product(engine: Docker, *, pull: bool = False, source: Path = ROOT) -> str:
    """The product's image, built from its own `Dockerfile`.

    Args:
        engine: where to build it.
        pull: try the real base from its registry first, for a short while.
        source: the tree to build.
    """
    if engine.images.get(PRODUCT) == str(source):
        return PRODUCT  # as it was when it was first asked for, whatever was edited since
    engine.images[PRODUCT] = str(source)
    files = _sources(source)
    names = (str(path.relative_to(source)) for path in files)
    key = _key(_base_recipe(), *(path.read_bytes() for path in files), *names)
    if pull and _pull(engine, source / "Dockerfile"):
        _build(engine, source, f"real-{key}")
        return PRODUCT
    return _cached(
        engine,
        PRODUCT,
        key,
        lambda: _build(engine, source, key, "--build-arg", f"BASE={base(engine)}"),
    )


def remove(engine: Docker) -> None:
    """Remove the lab's images from an engine, and the base image if it was pulled for them."""
    pulled = PULLED.read_text(encoding="utf-8") if PULLED.exists() else ""
    present = engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    ours = [tag for tag in present if tag.removesuffix(":latest") in (*ALL, pulled)]
    if ours:
        engine.docker("rmi", "--force", *ours)
    PULLED.unlink(missing_ok=True)


def _cached(engine: Docker, tag: str, key: str, make: Callable[[], object]) -> str:
    """See that an engine has the image of this key: there already, from its file, or made."""
    if _key_in(engine, tag) == key:
        return tag
    name = tag.replace("/", "-").replace(":", "_")
    file = CACHE / f"{name}-{key}.tar"
    if file.exists():
        engine.docker("load", "--quiet", "--input", str(file))
        return tag
    make()
    cache()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        fresh = Path(folder) / "image.tar"
        engine.docker("save", "--output", str(fresh), tag)
        for old in CACHE.glob(f"{name}-*.tar"):
            old.unlink(missing_ok=True)
        fresh.rename(file)
    return tag


def _key_in(engine: Docker, tag: str) -> str:
    present = engine.docker("image", "ls", "--quiet", tag)
    form = f'{{{{index .Config.Labels "{LABEL}.key"}}}}'
    return engine.docker("image", "inspect", "--format", form, tag) if present else ""


def cache() -> Path:
    """The folder for what is made once, ignored by git wherever it lies."""
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
    return CACHE


def _key(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def _recipe(*parts: str) -> str:
    this = Path(__file__).read_text(encoding="utf-8")
    return _key(this, install.os_release()["VERSION_CODENAME"], *parts)


def _base_recipe() -> str:
    return _recipe(*_pins())


def _pins() -> list[str]:
    return [pins.read_text(encoding="utf-8") for pins in PINS]


def _imported(
    engine: Docker, tag: str, plant: Callable[[Path], None], parts: list[str], command: str
) -> str:
    if tag in engine.images:
        return tag
    engine.images[tag] = key = _recipe(tag, *parts)

    def make() -> None:
        cache()
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            tree, file = Path(folder) / "tree", Path(folder) / "tree.tar"
            tree.mkdir()
            plant(tree)
            _prune(tree)
            own = ("--numeric-owner", "--owner=0", "--group=0")
            run("tar", "--create", *own, "--file", str(file), "--directory", str(tree), ".")
            changes = (f"LABEL {LABEL}.key={key}", command, "ENV PATH=" + ":".join(FOLDERS))
            options = [word for change in changes for word in ("--change", change)]
            engine.docker("import", *options, str(file), tag)

    return _cached(engine, tag, key, make)


def _prune(tree: Path) -> None:
    for pattern in SURPLUS:
        for path in tree.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _client_tree(tree: Path) -> None:
    install.fetch(install.os_release()["VERSION_CODENAME"], ["busybox-static"], tree)
    _link_busybox(tree)


def _wireguard_tree(tree: Path) -> None:
    packages = ["busybox-static", "wireguard-go", "wireguard-tools"]
    install.fetch(install.os_release()["VERSION_CODENAME"], packages, tree)
    _link_busybox(tree)
    script = tree / "gateway"
    script.write_text(GATEWAY, encoding="utf-8")
    script.chmod(0o755)


def _base_tree(tree: Path) -> None:
    machine = install.os_release()
    # Debian's next release has a newer Python than an old stable; Ubuntu's mirror has only Ubuntu.
    suite = "trixie" if machine["ID"] == "debian" else machine["VERSION_CODENAME"]
    install.fetch(suite, ["busybox-static", "python3", "python3-pip-whl"], tree)
    _link_busybox(tree)
    version = next((tree / "usr/lib").glob("python3.*")).name.removeprefix("python")
    for name in ("python", "python3"):
        (tree / "usr/local/bin" / name).symlink_to(f"/usr/bin/python{version}")
    pip = next((tree / "usr/share/python-wheels").glob("pip-*.whl"))
    site = tree / f"usr/local/lib/python{version}/dist-packages"
    shutil.unpack_archive(pip, site, format="zip")
    # This pip wants the bundle that the ca-certificates package makes when it is configured.
    certificates = sorted((tree / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = tree / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(b"".join(certificate.read_bytes() for certificate in certificates))
    wheels = tree / "usr/share/python-wheels"
    _download(pip, wheels, version)
    (tree / "etc/pip.conf").write_text(
        "[global]\nno-index = true\nfind-links = /usr/share/python-wheels\n", encoding="utf-8"
    )


def _download(pip: Path, into: Path, version: str) -> None:
    """Fetch the wheels that a build installs, with the image's own pip and the machine's index."""
    only = ("--require-hashes", "--only-binary", ":all:", "--python-version", version)
    target = ("--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(into))
    for pins in PINS:
        run(sys.executable, f"{pip}/pip", "download", *only, *target, "--requirement", str(pins))


def _link_busybox(tree: Path) -> None:
    """Make BusyBox the first answer to every name it knows, as it is in Alpine."""
    binary = tree / "usr/bin/busybox"
    local = tree / "usr/local/bin"
    local.mkdir(parents=True)
    for name in run(str(binary), "--list").split():
        if name != "busybox":
            (local / name).symlink_to("/usr/bin/busybox")
    for name in ("sh", "env"):  # where a first line looks for its interpreter
        link = tree / "usr/bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to("busybox")
    for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var"):
        (tree / name).mkdir(exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="utf-8")
    (tree / "etc/group").write_text("root:x:0:\n", encoding="utf-8")
    if not (tree / "var/run").exists():
        (tree / "var/run").symlink_to("/run")


def _sources(source: Path) -> list[Path]:
    """What `.dockerignore` lets into the build."""
    names = ("Dockerfile", "requirements.txt", "pyproject.toml", "tests/sbom.txt", "wgroutemgr.py")
    tops = [source / name for name in (*names, "lib")]
    files = (path for top in tops for path in (top.rglob("*.[ps][yh]") if top.is_dir() else [top]))
    return sorted(files)


def _build(engine: Docker, source: Path, key: str, *options: str) -> None:
    # Building the stages before the last by name keeps them from staying behind as images without.
    words = ("build", "--quiet", "--force-rm", "--label", f"{LABEL}.key={key}", *options)
    engine.docker(*words, "--target", "sbom", "--tag", BUILD, str(source))
    engine.docker(*words, "--tag", PRODUCT, str(source))


def _pull(engine: Docker, dockerfile: Path) -> bool:
    """Whether the real base image is there or comes from its registry in short time."""
    lines = dockerfile.read_text(encoding="utf-8").splitlines()
    real = next(line.removeprefix("ARG BASE=") for line in lines if line.startswith("ARG BASE="))
    if engine.docker("image", "ls", "--quiet", real):
        return True
    try:
        engine.docker("pull", "--quiet", real, seconds=PULL_SECONDS)
    except LabError:
        return False
    cache()
    PULLED.write_text(real, encoding="utf-8")
    return True
