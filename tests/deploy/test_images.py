"""Container image and Kubernetes manifest: tools take them, and their figures fit those of the code."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastgw import __version__, config
from fastgw.config import Config, units
from fastgw.config.directories import store_dir
from fastgw.supervisor.times import TIMES
from tests.places import REPOSITORY
from tests.surroundings import HADOLINT

DOCKERFILE = REPOSITORY / "deploy/container/Dockerfile"
MANIFEST = REPOSITORY / "deploy/kubernetes/fastgw.yaml"
TO_SPARE_S = 5


# --- the image -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("hadolint")
def test_hadolint_finds_nothing_wrong_with_the_dockerfile() -> None:
    done = subprocess.run([str(HADOLINT), str(DOCKERFILE)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_a_user_that_is_seen_not_to_be_root() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE.read_text(), re.MULTILINE)
    assert int(user) > 0
    pod = deployment()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == int(user)


def test_both_stages_have_the_same_python_which_is_one_that_fastgw_takes() -> None:
    text = DOCKERFILE.read_text()
    assert len(re.findall(r"^FROM python:\$\{PYTHON\}", text, re.MULTILINE)) == 2
    (version,) = re.findall(r"^ARG PYTHON=3\.(\d+)-", text, re.MULTILINE)
    assert int(version) >= 11


def test_everything_that_the_build_takes_is_there() -> None:
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    taken = [line[1:] for line in ignored if line.startswith("!")]
    assert {"fastgw", "pyproject.toml", "setup.py"} <= set(taken)
    missing = [name for name in taken if not (REPOSITORY / name).exists()]
    assert not missing


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image, built as the first lines of the Dockerfile say."""
    tag = f"fastgw-test:{secrets.token_hex(4)}"
    docker("build", "--file", DOCKERFILE, "--tag", tag, REPOSITORY)
    yield tag
    docker("image", "rm", "--force", tag)


def docker(*arguments: str | Path) -> str:
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it installs a compiler and compiles everything
@pytest.mark.needs("docker")
def test_the_image_can_be_built_and_runs_as_it_will_run(image: str) -> None:
    """As in the manifest: not root, and with a root file system that cannot be written to."""
    locked_up = ("run", "--rm", "--read-only", "--cap-drop=ALL", "--network=none")
    assert docker(*locked_up, image, "--version") == f"fastgw {__version__}"
    assert docker(*locked_up, "--entrypoint=id", image, "-u") == "10001"
    assert "[[route]]" in docker(*locked_up, image, "schema", "--markdown")


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def manifests() -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text())}


def deployment() -> dict[str, Any]:
    return manifests()["Deployment"]


def container() -> dict[str, Any]:
    (one,) = deployment()["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = one
    return found


def configuration() -> Config:
    environ = {variable["name"]: variable["value"] for variable in container()["env"]}
    return config.loads(manifests()["ConfigMap"]["data"]["fastgw.toml"], environ=environ)


def test_the_configuration_is_right_and_listens_where_the_ports_are() -> None:
    loaded = configuration()
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert [listen.bind for listen in loaded.gateway.listens] == [f"0.0.0.0:{ports['http']}"]
    assert loaded.admin.listen == f"0.0.0.0:{ports['admin']}"
    annotations = deployment()["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["admin"])


def test_pods_share_the_partitions_and_count_their_workers_themselves() -> None:
    assert configuration().cluster.mode == "group"
    assert "workers = " in manifests()["ConfigMap"]["data"]["fastgw.toml"]


def test_a_pod_is_given_the_time_of_its_pause_and_its_drain() -> None:
    (program, pause) = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    drain_s = configuration().gateway.drain_timeout_ns / units.NS_PER_S
    needed = float(pause) + drain_s + TIMES.drain_more + TIMES.agent_stop
    given = deployment()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert given >= needed + TO_SPARE_S
    assert f"{pause} + {drain_s:g} + {TIMES.drain_more:g} + {TIMES.agent_stop:g} seconds" in MANIFEST.read_text()


def test_probes_ask_the_pages_that_are_meant_for_them() -> None:
    asked = {name: container()[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": {"path": "/livez", "port": "admin"},
        "liveness": {"path": "/livez", "port": "admin"},
        "readiness": {"path": "/readyz", "port": "admin"},
    }


def test_the_liveness_probe_outlasts_the_replacement_of_a_hung_agent() -> None:
    probe = container()["livenessProbe"]
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) > TIMES.agent_hung + TIMES.start


def test_the_start_is_given_the_time_that_the_supervisor_gives_to_agent_and_workers() -> None:
    probe = container()["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > 2 * TIMES.start


def test_the_container_is_locked_up() -> None:
    pod = deployment()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_names_fit_together() -> None:
    spec = deployment()["spec"]
    labels = spec["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "Deployment"):
        selector = manifests()[kind]["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels
    assert container()["image"] == f"fastgw:{__version__}"
    assert f"fastgw:{__version__}" in DOCKERFILE.read_text()
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert mounts["config"] + "/fastgw.toml" in DOCKERFILE.read_text()
    assert {volume["name"] for volume in spec["template"]["spec"]["volumes"]} == set(mounts)


def test_the_store_has_a_place_that_the_image_names_and_that_is_larger_than_it_may_become() -> None:
    (state,) = re.findall(r"STATE_DIRECTORY=(\S+)", DOCKERFILE.read_text())
    loaded = configuration()
    assert store_dir(loaded.store, loaded.gateway, {"STATE_DIRECTORY": state}) == Path(state, loaded.gateway.name)
    (name,) = [mount["name"] for mount in container()["volumeMounts"] if mount["mountPath"] == state]
    volumes = {volume["name"]: volume for volume in deployment()["spec"]["template"]["spec"]["volumes"]}
    assert "medium" not in volumes[name]["emptyDir"], "a store in memory is refused"
    assert units.parse_bytes(volumes[name]["emptyDir"]["sizeLimit"] + "B") > loaded.store.max_bytes


# --- deploy/README.md ------------------------------------------------------------------------------------------------


def test_the_readme_of_deploy_names_every_file() -> None:
    deploy = REPOSITORY / "deploy"
    text = (deploy / "README.md").read_text()
    files = [path.relative_to(deploy) for path in deploy.rglob("*") if path.is_file() and path.name != "README.md"]
    assert [str(path) for path in files if f"`{path}`" not in text] == []
