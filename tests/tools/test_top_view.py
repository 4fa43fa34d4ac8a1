"""`offload top`: what its keys do, and what of its tables fits a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload._cli.fitting import GAP, Column, fit, share
from offload._cli.keys import names_of
from offload._cli.top_view import SORTS, Mode, View
from tests.tools.test_top import state

NAMES = ("work:resize", "work:report", "other:count")


def pools():
    """Return a state with two pools and three functions."""
    one = state()["pools"][0]
    functions = [one["functions"][0] | {"name": name} for name in NAMES]
    return state() | {
        "pools": [one | {"functions": functions}, one | {"name": "reports", "functions": []}]
    }


def after(*keys, view=None):
    """Return the view after these keys."""
    view = view or View()
    for key in keys:
        view = view.press(key, pools())
    return view


class TestKeys:
    @pytest.mark.parametrize(
        "typed,expected",
        [
            ("q", ["q"]),
            ("ab", ["a", "b"]),
            ("\x1b", ["escape"]),
            ("\x1b[A\x1bOB", ["up", "down"]),
            ("\x1b[5~\x1b[6~", ["page up", "page down"]),
            ("\x1b[1;5Cx", ["x"]),
            ("\x1b[", []),
            ("\r\x7f\x03", ["enter", "backspace", "interrupt"]),
            ("ö", ["ö"]),
        ],
    )
    def test_bytes_of_a_terminal_are_keys(self, typed, expected):
        """An arrow is one key and not an Escape with letters; what is unknown is nothing."""
        assert names_of(typed) == expected

    def test_s_goes_through_all_orders_and_back(self):
        """Every order is reached, and the first comes again."""
        seen = [after(*"s" * times).sort for times in range(len(SORTS) + 2)]
        assert {*SORTS, "name"} == set(seen)
        assert seen[0] == seen[-1] == "busy"
        assert after("s", "S").sort == "busy"

    def test_filter_is_typed_and_dropped(self):
        """What is typed after / is the filter, also letters that are keys otherwise."""
        typed = after("/", *"qs", "backspace", "?")
        assert (typed.mode, typed.needle) == (Mode.TYPING, "q?")
        assert after("enter", view=typed) == View(needle="q?")
        assert after("escape", view=typed) == View()
        assert after("enter", "escape", view=typed) == View()

    def test_p_goes_through_pools_and_back_to_all(self):
        """One pool after the other, then all again."""
        assert [after(*"p" * times).pool for times in range(4)] == [None, "images", "reports", None]

    def test_pool_that_is_gone_hides_nothing(self):
        """If the chosen pool is closed, all are shown."""
        assert len(View(pool="closed").pools_of(pools())) == 2

    def test_scrolling_ends_at_both_ends(self):
        """Nobody scrolls past the last function or before the first."""
        assert after("j", "down").first == 2
        assert after("page down", "page down").first == len(NAMES) - 1
        assert after("j", "k", "up").first == 0

    @pytest.mark.parametrize("keys", [["q"], ["interrupt"], ["?", "q"], ["/", "interrupt"]])
    def test_quits(self, keys):
        """The key q ends it, but for a filter that is typed; Ctrl+C always does."""
        assert after(*keys).mode is Mode.DONE

    def test_help_and_back(self):
        """Any key leaves the help and does nothing else."""
        assert after("?").mode is Mode.HELP
        assert after("?", "s") == View()

    @pytest.mark.parametrize("order", [*SORTS, "name"])
    def test_equal_figures_keep_their_places(self, order):
        """Functions that differ in nothing stand by name, so that lines do not jump."""
        found = View(sort=order).functions_of(pools()["pools"])
        assert [function["name"] for _, function in found] == sorted(NAMES)


columns = st.builds(
    Column,
    title=st.just(""),
    rank=st.integers(0, 3),
    least=st.integers(0, 9),
    is_number=st.booleans(),
    wanted=st.none() | st.integers(1, 30),
)


class TestFit:
    @given(st.lists(st.tuples(columns, st.integers(1, 120)), min_size=1, max_size=8), st.data())
    def test_fits_if_it_can(self, table, data):
        """What is shown fits, unless what always stays does not; no text is too wide."""
        room = data.draw(st.integers(20, 200))
        found = fit([each for each, _ in table], [width for _, width in table], room)
        kept = [
            (each, width, given) for (each, width), given in zip(table, found, strict=True) if given
        ]
        total = sum(given for *_, given in kept) + GAP * (len(kept) - 1)
        assert total <= room or all(
            not each.rank and (each.is_number or given == 1) for each, _, given in kept
        )
        assert all(found[i] is not None for i, (each, _) in enumerate(table) if not each.rank)
        assert all(given <= max(width, each.least) for each, width, given in kept)
        assert all(given >= width for each, width, given in kept if each.is_number)

    def test_highest_rank_goes_first_and_text_is_cut_last(self):
        """Figures go in the order of their ranks, the name stays whole."""
        table = [Column("name"), *(Column(str(rank), rank, is_number=True) for rank in (1, 2, 3))]
        widths = [30, 5, 5, 5]
        assert fit(table, widths, 60) == widths
        assert fit(table, widths, 50) == [30, 5, 5, None]
        assert fit(table, widths, 40) == [30, 5, None, None]
        assert fit(table, widths, 32) == [30, None, None, None]
        assert fit(table, widths, 20) == [20, None, None, None]


class TestShare:
    @given(
        st.integers(0, 60),
        st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), min_size=1, max_size=5),
    )
    def test_all_rows_are_given_away_and_no_more(self, room, tables):
        """No table gets more than it has, none is left out, and no row stays empty."""
        wants = [want for want, _ in tables]
        found = share(room, wants, [weight for _, weight in tables])
        assert all(min(want, 1) <= got <= want for want, got in zip(wants, found, strict=True))
        least = sum(min(want, 1) for want in wants)
        assert sum(found) == max(min(room, sum(wants)), least)
