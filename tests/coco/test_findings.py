"""Findings of any number of records are few lines: what is wrong, how often, three examples, the way out."""

import pytest

from rankdet.coco import Finding, grouped, raise_errors
from rankdet.structures import InputError


def broken(number: int, problem: str = "has no area", severity="error", file="a.json", remedy="") -> list[Finding]:
    return [Finding(severity, file, f"annotation {id_}", problem, f"[{id_}, 0]", remedy) for id_ in range(number)]


@pytest.mark.parametrize("number", [4, 100, 5000])
def test_many_records_with_one_problem_are_one_line_with_three_examples(number):
    assert grouped(broken(number)) == [
        f"error: a.json: each of {number} records: has no area (annotation 0: [0, 0]; annotation 1: [1, 0]; "
        "annotation 2: [2, 0]; …)"
    ]


def test_one_record_is_named_with_its_detail_and_the_way_out():
    (line,) = grouped(broken(1, severity="warning", remedy="`rankdet doctor --fix OUT` writes a clean copy"))
    assert line == (
        "warning: a.json: annotation 0: has no area: [0, 0]; `rankdet doctor --fix OUT` writes a clean copy"
    )


def test_problems_files_severities_and_remedies_have_lines_of_their_own_errors_first():
    notes, warnings = broken(2, severity="note"), broken(2, severity="warning")
    others = [*broken(2, "is flat"), *broken(2, file="b.json"), *broken(2, remedy="x=true")]
    lines = grouped([*notes, *warnings, *others, *broken(1)])
    assert [line.split(":")[0] for line in lines] == ["error"] * 4 + ["warning", "note"]
    assert "a.json: annotation 0: has no area" in lines[-3]


@pytest.mark.parametrize("number", [1, 3, 5000])
def test_an_error_names_all_kinds_of_mistakes_and_no_warnings(number):
    findings = [*broken(7, severity="warning"), *broken(number), *broken(number, "is flat")]
    with pytest.raises(InputError) as caught:
        raise_errors(findings)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("a.json: ") for line in lines)
    assert "has no area" in lines[0]
    assert "is flat" in lines[1]


def test_without_errors_nothing_is_raised():
    raise_errors(broken(3, severity="warning"))
    assert grouped([]) == []
