"""What role a process has, and who says so."""

import pytest

from offload.roles import Program, Role, current_role
from offload.starlette import lifespan

EVERY = Role.every()


@pytest.mark.parametrize(
    "text,role",
    [
        ("web", Role.WEB),
        (" Worker ", Role.WORKER),
        ("web,worker", Role.WEB | Role.WORKER),
        ("worker,,web,", Role.WEB | Role.WORKER),
        ("all", EVERY),
        ("web,all", EVERY),
    ],
)
def test_names_become_a_role(text, role):
    """One name, several, or all; in any order, with blanks or without."""
    assert Role.parse(text) == role


@pytest.mark.parametrize("role", [*Role, EVERY])
def test_text_of_a_role_is_its_names(role):
    """What is shown can be typed."""
    assert Role.parse(str(role)) == role


@pytest.mark.parametrize(
    "text,named", [("wrker", "'wrker'"), ("web,wrker", "'wrker'"), (",", "','")]
)
def test_unknown_role_is_refused_with_the_choice(text, named):
    """A wrong name is told, and which ones there are."""
    with pytest.raises(ValueError, match=rf"{named}.*choose of web, worker, scheduler, or all"):
        Role.parse(text)


@pytest.mark.parametrize("make", [Program, lifespan])
def test_wrong_role_is_refused_where_it_is_written(make):
    """Not only when the server starts."""
    with pytest.raises(ValueError, match="no role 'wrker'"):
        make(role="wrker")
    with pytest.raises(TypeError, match="must be a Role or its name, not 7"):
        make(role=7)
    with pytest.raises(ValueError, match="a program has a role"):
        make(role=Role(0))


def test_process_that_was_not_told_has_no_role(monkeypatch):
    """A script is no web server; its role is false."""
    monkeypatch.delenv("OFFLOAD_ROLE", raising=False)
    assert not current_role()
    assert Role.WEB not in current_role()


@pytest.mark.parametrize("text,role", [("", Role(0)), ("worker", Role.WORKER), ("all", EVERY)])
def test_variable_tells_the_role(monkeypatch, text, role):
    """Before anything is open, as when modules are imported."""
    monkeypatch.setenv("OFFLOAD_ROLE", text)
    assert current_role() == role


def test_wrong_variable_is_named(monkeypatch):
    """Whoever reads the error must know where the name comes from."""
    monkeypatch.setenv("OFFLOAD_ROLE", "wrker")
    with pytest.raises(ValueError, match=r"OFFLOAD_ROLE: there is no role 'wrker'"):
        current_role()
