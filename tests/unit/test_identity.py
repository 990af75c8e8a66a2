"""The parsers of /proc/self/cgroup and mountinfo, on a sample of every kind of place.

The samples in tests/data/proc have the shape that each place really shows; the ids in them are made
up so that one sees at once which is which.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.engine import identity

SAMPLES = Path(__file__).parent.parent / "data" / "proc"
OWN = "0123456789abcdef" * 4
GATEWAY = "fedcba9876543210" * 4
LAYER = "5a" * 32
OVERLAY2 = f"/var/lib/docker/overlay2/{LAYER}/diff"


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


OWN_IDS = {
    "cgroup-v1-cgroupfs": (OWN,),
    "cgroup-v1-systemd": (OWN,),
    "cgroup-v1-in-docker": (OWN,),
    "cgroup-v1-private": (),
    "cgroup-v1-host": (),
    "cgroup-v2-cgroupfs": (OWN,),
    "cgroup-v2-systemd": (OWN,),
    "cgroup-v2-parent": (OWN,),
    "cgroup-v2-rootless": (OWN,),
    "cgroup-v2-in-docker": (OWN,),
    "cgroup-v2-podman": (OWN,),
    "cgroup-v2-kubernetes": (OWN,),
    "cgroup-v2-private": (),
    "cgroup-v2-host": (),
}

OWNER_IDS_AND_LAYER = {
    "mountinfo-overlay2": ((GATEWAY,), OVERLAY2),
    "mountinfo-data-root-elsewhere": (
        (GATEWAY,),
        f"/srv/engine\\040data/overlay2/{LAYER}/diff",
    ),
    "mountinfo-data-root-filesystem": ((GATEWAY,), OVERLAY2),
    "mountinfo-var-lib-filesystem": ((GATEWAY,), OVERLAY2),
    "mountinfo-btrfs": ((GATEWAY,), ""),
    "mountinfo-containerd-store": (
        (GATEWAY,),
        "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/12/fs",
    ),
    "mountinfo-rootless": ((GATEWAY,), f"/home/ada/.local/share/docker/overlay2/{LAYER}/diff"),
    "mountinfo-in-docker": ((GATEWAY,), OVERLAY2),
    "mountinfo-in-docker-overlay": ((GATEWAY,), OVERLAY2),
    # Podman gives the owner's hosts and resolv.conf, but each container its own hostname.
    "mountinfo-podman": (
        (GATEWAY,),
        f"/var/lib/containers/storage/overlay/{LAYER}/diff",
    ),
    "mountinfo-own-hosts": ((GATEWAY,), OVERLAY2),
    "mountinfo-own-files": ((), OVERLAY2),
    "mountinfo-other-containers-mounted": ((GATEWAY,), OVERLAY2),
    "mountinfo-kubernetes": (
        (),
        "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/12/fs",
    ),
    "mountinfo-host": ((), ""),
}


@pytest.mark.parametrize("name", OWN_IDS)
def test_cgroup_names_our_own_container_where_it_shows_it(name: str) -> None:
    assert identity.own_ids(sample(name)) == OWN_IDS[name]


@pytest.mark.parametrize("name", OWNER_IDS_AND_LAYER)
def test_mountinfo_names_our_own_container_under_podman_only(name: str) -> None:
    own = (OWN,) if name == "mountinfo-podman" else ()

    assert identity.own_ids("0::/", sample(name)) == own


@pytest.mark.parametrize("name", OWNER_IDS_AND_LAYER)
def test_mountinfo_names_the_owner_of_our_network_namespace(name: str) -> None:
    owners, _ = OWNER_IDS_AND_LAYER[name]

    assert identity.netns_owner_ids(sample(name)) == owners


@pytest.mark.parametrize("name", OWNER_IDS_AND_LAYER)
def test_mountinfo_tells_our_writable_layer_where_there_is_one(name: str) -> None:
    _, layer = OWNER_IDS_AND_LAYER[name]

    assert identity.upper_dir(sample(name)) == layer


@pytest.mark.parametrize("file", ["hosts", "hostname", "resolv.conf"])
def test_any_one_of_the_three_files_names_the_owner(file: str) -> None:
    source = f"/var/lib/docker/containers/{GATEWAY}/{file}"
    line = f"620 610 8:1 {source} /etc/{file} rw,relatime - ext4 /dev/sda1 rw\n"

    assert identity.netns_owner_ids(line) == (GATEWAY,)


def test_every_sample_is_used() -> None:
    assert sorted(path.name for path in SAMPLES.iterdir()) == sorted(
        [*OWN_IDS, *OWNER_IDS_AND_LAYER]
    )


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(f"/docker/{OWN[:-1]}", id="63 digits"),
        pytest.param(f"/docker/{OWN}0", id="65 digits"),
        pytest.param(f"/docker/{OWN.upper()}", id="capitals"),
        pytest.param(f"/docker/x{OWN}", id="part of a word"),
        pytest.param(f"/docker/{OWN}.slice", id="another kind of unit"),
        pytest.param("/docker/gateway", id="a name"),
    ],
)
def test_what_only_resembles_an_id_is_none(path: str) -> None:
    assert identity.own_ids(f"0::{path}\n") == ()


def test_several_hierarchies_with_different_ids_give_each_once_in_order() -> None:
    other = "ab" * 32

    assert identity.own_ids(f"2:pids:/docker/{OWN}\n1:cpu:/docker/{other}\n0::/docker/{OWN}\n") == (
        OWN,
        other,
    )


LINES = st.lists(
    st.lists(
        st.one_of(
            st.text(max_size=8),
            st.sampled_from(["/", "/etc/hosts", f"/containers/{OWN}/hosts", "-", "upperdir="]),
        ),
        max_size=12,
    ).map(" ".join)
).map("\n".join)


@given(LINES)
def test_any_text_is_read_without_an_exception(text: str) -> None:
    identity.own_ids(text)
    identity.upper_dir(text)

    assert set(identity.netns_owner_ids(text)) <= {OWN}
