"""What is released: one version, one name at the top of the wheel, and every extra in `all`."""

import importlib.util
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

import offload
from tests.support.docs_pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def script(name):
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_has_every_extra():
    """`offload[all]` leaves nothing out, and names nothing that there is not."""
    extras = PROJECT["project"]["optional-dependencies"]
    (named,) = extras["all"]
    assert named == f"offload[{','.join(sorted(extras.keys() - {'all'}))}]"


def test_every_extra_is_explained():
    """The table of extras has each of them."""
    text = (ROOT / "docs" / "install.md").read_text()
    rows = re.findall(r"^\| `offload\[(\w+)\]` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(PROJECT["project"]["optional-dependencies"])


def test_changelog_has_this_version():
    """The newest entry is that of the version in the tree."""
    newest = re.search(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == offload.__version__


@pytest.fixture
def tree(tmp_path) -> Path:
    """Return a folder that is ready to be released as 1.2.3."""
    (tmp_path / "offload").mkdir()
    (tmp_path / "offload" / "_version.py").write_text('"""V."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [1.2.3] - 2026-12-01\n")
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://x/"\n')
    return tmp_path


class TestCheckOfARelease:
    def test_ready(self, tree):
        """Where nothing is missing, nothing is said."""
        assert script("check_release").problems_of("v1.2.3", tree) == []

    @pytest.mark.parametrize(
        "file,text,said",
        [
            ("offload/_version.py", '__version__ = "1.2.4"\n', "the tag is v1.2.3"),
            ("offload/_version.py", "", "says no version"),
            ("CHANGELOG.md", "## [1.2.3] - unreleased\n", "no heading"),
            ("pyproject.toml", '[project]\nname = "x"\n', "no project.urls"),
        ],
    )
    def test_not_ready(self, tree, file, text, said):
        """Each thing that is forgotten is named."""
        (tree / file).write_text(text)
        assert said in " ".join(script("check_release").problems_of("v1.2.3", tree))


class TestCheckOfTheWheel:
    GOOD = (
        "offload/__init__.py",
        "offload/py.typed",
        "offload/dashboard/static/index.html",
        "offload/_demo/demo_server/static/index.html",
        "offload-1.2.3.dist-info/METADATA",
    )

    def test_good(self):
        """One package, its pages and its marker for type checkers."""
        assert script("check_wheel").problems_of([*self.GOOD]) == []

    def test_second_name_at_the_top(self):
        """A second package would shadow others of its name in every environment."""
        found = script("check_wheel").problems_of([*self.GOOD, "demo_server/app.py"])
        assert found == ["names at the top: demo_server, offload; only offload is ours"]

    @pytest.mark.parametrize("name", GOOD[1:4])
    def test_missing(self, name):
        """A page or a marker that was not packed is missed here and not by users."""
        names = [each for each in self.GOOD if each != name]
        assert script("check_wheel").problems_of(names) == [f"{name} is missing"]


class TestBillOfMaterials:
    def test_every_locked_dependency_is_in_it_with_a_hash(self, monkeypatch):
        """It names what the extras need, and nothing of the tools of development."""
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        document = script("sbom").sbom()
        found = {each["name"]: each for each in document["components"]}
        assert {"anyio", "starlette", "redis", "psycopg"} <= found.keys()
        assert not {"pytest", "mypy", "ruff"} & found.keys()
        locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
        versions = {each["name"]: each.get("version") for each in locked}
        for name, component in found.items():
            assert component["version"] == versions[name]
            (first, *_) = component["externalReferences"]
            assert re.fullmatch("[0-9a-f]{64}", first["hashes"][0]["content"])
        assert document["metadata"]["component"]["version"] == offload.__version__

    def test_it_is_the_same_each_time(self, monkeypatch):
        """What was released can be made again, and compared."""
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        assert script("sbom").sbom() == script("sbom").sbom()
