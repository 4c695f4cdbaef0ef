"""Any numbers on the command line make a plan, or one line that says what is wrong.

WBCLI_FUZZ is the number of command lines that are made up for each test.
"""

import os

import pytest

pytest.importorskip("hypothesis")
import hypothesis
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("WBCLI_FUZZ", "40"))
NUMBERS = ("--wd", "--lr", "--momentum", "--epochs", "--batch-size", "--radius", "--seed")
NUMBERS += ("--imbalance-factor", "--val-per-class")
VALUES = st.one_of(
    st.integers().map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.floats(0, 2).map(str),
    st.sampled_from(["", " ", "nan", "-inf", "1e400", "0x10", "1_000", "٣", "½", "none", "--"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)


def fuzzed(names):
    pairs = st.lists(st.tuples(st.sampled_from(names), VALUES), min_size=1, max_size=3)
    return pairs.map(lambda found: [f"{name}={value}" for name, value in found])


def fuzz(test):
    health = [hypothesis.HealthCheck.function_scoped_fixture]
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=health,
    )
    return settings(test)


def is_a_plan_or_one_line(result) -> None:
    assert result.code in (0, 1, 2)
    if result.code:
        assert result.out == ""
        errors = [line for line in result.err.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1 and errors == result.err.splitlines()[-1:]
    assert "Traceback" not in result.err


@fuzz
@hypothesis.given(options=fuzzed(NUMBERS))
def test_any_numbers_of_stage1_make_a_plan_or_one_line(wbcli, options):
    is_a_plan_or_one_line(wbcli("stage1", "digitslt", "--dry-run", *options))
    assert not os.listdir()


@fuzz
@hypothesis.given(options=fuzzed((*NUMBERS, "--maxnorm", "--views")))
def test_any_numbers_of_stage2_make_a_plan_or_one_line(wbcli, here, options):
    is_a_plan_or_one_line(wbcli("stage2", "first", "--dry-run", *options))
    assert sorted(os.listdir("runs")) == ["first", "half", "second"]


@fuzz
@hypothesis.given(tau=VALUES)
def test_any_tau_is_a_number_in_range_or_refused(wbcli, here, tau):
    """A name that no run can have ends it where τ is in range."""
    result = wbcli("normalize", "first", "--name", "a/b", f"--tau={tau}")
    is_a_plan_or_one_line(result)
    assert result.code == 2
