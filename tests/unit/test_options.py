"""`offload._values.options`: checked where they enter, call before decorator and pool."""

import copy
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload._values.options import (
    INHERIT,
    CallOptions,
    CallOptionsDict,
    Inherit,
    ResolvedOptions,
    check_callable,
    check_integer,
    check_name,
    check_number,
)

seconds = st.floats(0.0, exclude_min=True, allow_infinity=False, allow_nan=False) | st.integers(
    1, 9
)
valid = st.fixed_dictionaries(
    {},
    optional={
        "timeout": st.none() | seconds,
        "queue_timeout": st.none() | seconds | st.just(0),
        "deadline": st.none() | seconds,
        "priority": st.integers(),
        "max_crash_retries": st.integers(0),
        "grace": seconds | st.just(0.0),
        "single_flight": st.booleans(),
        "on_progress": st.sampled_from((None, print)),
    },
)

# An option, a value that it does not take, and what is raised.
INVALID = [
    ("timeout", 0, ValueError),
    ("timeout", -1.0, ValueError),
    ("timeout", math.inf, ValueError),
    ("timeout", math.nan, ValueError),
    ("timeout", 10**400, ValueError),
    ("timeout", "1", TypeError),
    ("timeout", True, TypeError),
    ("queue_timeout", -0.1, ValueError),
    ("queue_timeout", math.inf, ValueError),
    ("queue_timeout", [1], TypeError),
    ("deadline", math.inf, ValueError),
    ("deadline", "soon", TypeError),
    ("grace", -1, ValueError),
    ("grace", None, TypeError),
    ("priority", 1.0, TypeError),
    ("priority", True, TypeError),
    ("priority", None, TypeError),
    ("max_crash_retries", -1, ValueError),
    ("max_crash_retries", 1.5, TypeError),
    ("single_flight", 1, TypeError),
    ("on_progress", 1, TypeError),
]


class TestCallOptions:
    def test_defaults_limit_nothing_and_inherit_timeouts(self):
        """Without options a call waits and runs as its pool says, once, in order of arrival."""
        options = CallOptions()
        assert options.timeout is options.queue_timeout is INHERIT
        assert options.deadline is options.on_progress is None
        assert (options.priority, options.max_crash_retries, options.grace) == (0, 0, 0.0)
        assert options.single_flight is False

    @given(valid)
    def test_valid_values_are_kept(self, values):
        """What is in range is accepted and kept as it is."""
        options = CallOptions(**values)
        assert {name: getattr(options, name) for name in values} == values

    @pytest.mark.parametrize("name,value,error", INVALID)
    def test_invalid_values_are_refused(self, name, value, error):
        """What has the wrong type or is out of range is refused by the option's name."""
        with pytest.raises(error, match=f"^{name} must be "):
            CallOptions(**{name: value})

    def test_options_are_keywords(self):
        """No option can be given by position."""
        with pytest.raises(TypeError):
            CallOptions(1.0)

    @pytest.mark.parametrize("name", CallOptions._fields)
    def test_options_are_frozen(self, name):
        """Options that were checked cannot change."""
        with pytest.raises(AttributeError):
            setattr(CallOptions(), name, 1)

    def test_unknown_attributes_cannot_be_set(self):
        """A misspelt option is not taken silently."""
        with pytest.raises(AttributeError):
            CallOptions().time_out = 1

    @given(valid)
    def test_copies_and_pickles_are_equal(self, values):
        """Options cross processes, and what inherits still does."""
        options = CallOptions(**values)
        for copied in (pickle.loads(pickle.dumps(options)), copy.copy(options)):
            assert copied == options
            assert type(copied) is CallOptions
            assert (copied.timeout is INHERIT) == (options.timeout is INHERIT)

    def test_the_same_names_everywhere(self):
        """What a call takes, what is resolved from it, and what is typed are the same options."""
        assert CallOptions._fields == ResolvedOptions._fields
        assert set(CallOptionsDict.__annotations__) == set(CallOptions._fields)


class TestMerge:
    @given(valid, valid)
    def test_changes_win(self, values, changes):
        """What is given with the call replaces what the decorator said; the rest stays."""
        merged = CallOptions(**values).merged(changes)
        assert merged == CallOptions(**(values | changes))

    def test_none_is_a_value(self):
        """`None` takes a limit away; it does not inherit one."""
        assert CallOptions(timeout=5.0).merged({"timeout": None}).timeout is None

    def test_inherit_gives_the_decision_back(self):
        """`INHERIT` undoes what the decorator said."""
        assert CallOptions(timeout=5.0).merged({"timeout": INHERIT}).timeout is INHERIT

    @pytest.mark.parametrize("name,value,error", INVALID)
    def test_changes_are_checked(self, name, value, error):
        """Options of a call are checked as those of the decorator are."""
        with pytest.raises(error, match=f"^{name} must be "):
            CallOptions().merged({name: value})

    def test_unknown_option_is_named(self):
        """A misspelt option is refused with the list of those that exist."""
        with pytest.raises(
            TypeError, match=r"unknown option 'time_out': did you mean 'timeout'.*timeout.*priority"
        ):
            CallOptions().merged({"time_out": 1})

    def test_original_is_unchanged(self):
        """Options of one call do not change those of the function."""
        options = CallOptions(timeout=5.0)
        options.merged({"timeout": 1.0})
        assert options.timeout == 5.0


class TestInherit:
    def test_reads_as_in_the_docs(self):
        """Signatures in the documentation show `INHERIT`, not an address."""
        assert repr(INHERIT) == "INHERIT"
        assert isinstance(INHERIT, Inherit)


class TestChecks:
    @given(st.floats() | st.integers(), st.floats(-10, 10))
    def test_numbers_at_least(self, value, minimum):
        """`minimum` itself is accepted, less is not."""
        is_valid = math.isfinite(value) and value >= minimum
        assert accepts(check_number, value, minimum=minimum) == is_valid

    @given(st.floats() | st.integers(), st.floats(-10, 10))
    def test_numbers_above(self, value, above):
        """`above` itself is not accepted, more is."""
        is_valid = math.isfinite(value) and value > above
        assert accepts(check_number, value, above=above) == is_valid

    @given(st.integers(), st.integers(-10, 10))
    def test_integers_at_least(self, value, minimum):
        """`minimum` itself is accepted, less is not."""
        assert accepts(check_integer, value, minimum=minimum) == (value >= minimum)

    @pytest.mark.parametrize("optional", [True, False])
    def test_none_only_where_optional(self, optional):
        """`None` is accepted where it means no limit, and nowhere else."""
        assert accepts(check_number, None, optional=optional) == optional
        assert accepts(check_integer, None, optional=optional) == optional

    @pytest.mark.parametrize("value,is_valid", [("images", True), ("", False), (b"x", False)])
    def test_names(self, value, is_valid):
        """A name is text, and not empty."""
        assert accepts(check_name, value) == is_valid

    @pytest.mark.parametrize("value,is_valid", [(print, True), (None, True), ("print", False)])
    def test_callables(self, value, is_valid):
        """A callback can be called, or is not given."""
        assert accepts(check_callable, value) == is_valid


def accepts(check, value, **limits):
    """Return whether a check lets a value pass; its error must name the option."""
    try:
        check("option", value, **limits)
    except (TypeError, ValueError) as error:
        assert str(error).startswith("option must be ")  # noqa: PT017 - the text is the point
        return False
    return True
