"""What stands in the pages of experiments: tables are those of the records, and so is every number in the words."""

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest

from pvt_jax.errors import UserError
from pvt_jax.sweeps import Measure, report, results
from pvt_jax.sweeps.file import load
from pvt_jax.sweeps.jobs import jobs
from pvt_jax.sweeps.runner import Runner
from pvt_jax.visualization import plots

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments"
SWEEPS = sorted(path.parent.name for path in FOLDER.glob("*/sweep.py"))
CLAIMS = FOLDER / "README.md"
VERDICTS = ("agrees", "disagrees", "cannot be said")
# A number with a decimal point, or a percentage.
NUMBER = re.compile(r"(?<![\w.,/–-])\d[\d,]*(?:\.\d+(?: ?%)?| ?%)(?![\w]|\.\d)")
# A sentence that names its source holds published numbers.
SOURCE = re.compile(r"\b(?:arXiv|[Tt]ables?|[Ff]igures?|[Ss]ections?|[Pp]apers?|[Pp]ublished)\b")
# Factors between what is recorded and what is read: millions, billions, MiB, GiB.
UNITS = (1.0, 1e-3, 1e-6, 1e-9, 2.0**-20, 2.0**-30, 100.0)


def readme(name: str) -> str:
    return (FOLDER / name / "README.md").read_text("utf-8")


def parts(text: str) -> dict[str, str]:
    """What is generated, by scale."""
    found = re.finditer(r"<!-- results: (\S+) -->\n(.*?)\n?<!-- end of results: \1 -->", text, re.DOTALL)
    return {match[1]: match[2] for match in found}


@cache
def records(name: str) -> list[dict]:
    return results.read(FOLDER / name / results.FILE)


def scales(name: str) -> list[str]:
    """Of a sweep, as it names them itself where it does not know one."""
    with pytest.raises(UserError, match="no scale") as error:
        load(f"{FOLDER / name / 'sweep.py'}:?")
    return re.findall(r"[\w.-]+", str(error.value).partition("there are ")[2].partition(", as sweep.py")[0])


def words(text: str) -> Iterator[str]:
    """Sentences, without code, tables and what is generated."""
    text = re.sub(r"<!-- results: (\S+) -->.*?<!-- end of results: \1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(?: {4}|\|).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    for paragraph in re.split(r"\n\s*\n|\n- ", text):
        yield from re.split(r"(?<=[.!?])\s+(?=[A-Z\"*\[(])", " ".join(paragraph.split()))


def value(number: str) -> float:
    return float(number.rstrip(" %").replace(",", ""))


def is_rounded(found: float, number: str) -> bool:
    """Whether ``number`` is how ``found`` is written."""
    digits = number.rstrip(" %").replace(",", "")
    return f"{found:.{len(digits.partition('.')[2])}f}" == digits


def unexplained(text: str, known: str, values: list[float]) -> list[str]:
    """Numbers of a text that are not in ``known`` or among ``values``, and that do not follow from two that are."""
    numbers = NUMBER.findall(text)
    shown = {value(number) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", known)}
    lost = [
        number
        for number in numbers
        if not any(is_rounded(one, number) for one in shown)
        and not any(is_rounded(one * unit, number) for one in values for unit in UNITS)
    ]
    sure = {value(number) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)} - {value(number) for number in lost}
    derived = [
        result for a, b in permutations(sure, 2) if b for result in (a / b, a - b, 100 * a / b, 100 * (1 - a / b))
    ]
    return [number for number in lost if not any(is_rounded(result, number) for result in derived)]


def measured(name: str) -> tuple[str, list[float]]:
    """What is known of an experiment: generated text without published columns, with commands; recorded numbers."""
    lines = [line for part in parts(readme(name)).values() for line in without_published(part)]
    values = [v for one in records(name) for v in one["values"].values() if isinstance(v, int | float)]
    return "\n".join([*lines, *(one["command"] for one in records(name))]), values


def without_published(part: str) -> Iterator[str]:
    hidden: set[int] = set()
    for line in part.splitlines():
        if not line.startswith("|"):
            hidden = set()
            yield line
            continue
        cells = line.strip("| ").split(" | ")
        hidden |= {i for i, cell in enumerate(cells) if "published" in cell}
        yield " | ".join(cell for i, cell in enumerate(cells) if i not in hidden)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures say whether there is something to draw, and draw nothing."""
    for name in ("lines", "dots", "curves"):
        monkeypatch.setattr(plots, name, lambda *arguments, **more: b"")


@pytest.mark.parametrize("name", SWEEPS)
def test_tables_are_those_of_the_records(name, undrawn):
    shown = parts(readme(name))
    recorded = {record["scale"] for record in records(name)}
    assert recorded <= shown.keys(), f"run python -m pvt_jax.sweep experiments/{name}/sweep.py:SCALE --report"
    for scale, part in shown.items():
        sweep = load(f"{FOLDER / name / 'sweep.py'}:{scale}")[1]
        found = results.counted(records(name), sweep)
        drawn = [figure for figure in sweep.figures if figure.draw(sweep, found) is not None]
        assert part == report.text(sweep, found, drawn), f"{name}:{scale}: run --report"
        for figure in drawn:
            assert (FOLDER / name / figure.file).exists()


@pytest.mark.parametrize("name", SWEEPS)
def test_records_are_of_the_commands_of_their_sweeps(name):
    """A sweep that has changed since has other numbers."""
    for scale in {record["scale"] for record in records(name)}:
        file, sweep = load(f"{FOLDER / name / 'sweep.py'}:{scale}")
        assert Runner(file, sweep, Path("runs"), FOLDER / name).outdated() == []


@pytest.mark.parametrize("name", SWEEPS)
def test_numbers_in_the_words_are_measured_ones(name):
    known, values = measured(name)
    for sentence in words(readme(name)):
        assert SOURCE.search(sentence) or not unexplained(sentence, known, values), sentence


@pytest.mark.parametrize("name", SWEEPS)
def test_records_name_nothing_of_a_machine(name):
    for record in records(name):
        text = json.dumps({key: value for key, value in record.items() if key != "curves"})
        assert not re.search(r"""(?:^|[\s"'=:,(\[])(?:/|~/|[A-Za-z]:\\\\)\w""", text), text


@pytest.mark.parametrize("name", SWEEPS)
def test_arms_of_every_scale_are_known_and_readmes_have_their_command(name):
    text = readme(name)
    assert f"python -m pvt_jax.sweep experiments/{name}/sweep.py" in text
    known = scales(name)
    assert "toy" in known
    assert {*re.findall(rf"experiments/{name}/sweep\.py:([\w.-]+)", text)} <= {*known}
    for scale in known:
        file, sweep = load(f"{FOLDER / name / 'sweep.py'}:{scale}")
        assert sweep.scale == scale and sweep.title
        names = [arm.name for arm in sweep.arms]
        assert {job.arm.name for job in jobs(sweep, dict.fromkeys(names, 1e-3))} == {*names}
        for arm in sweep.arms:
            if isinstance(arm, Measure):
                assert not arm.command.endswith(".py") or (file.parent / arm.command).exists()


def claims() -> list[list[str]]:
    lines = [line for line in CLAIMS.read_text("utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in rows if row[0] not in ("claim", "---")]


def test_claims_are_those_of_three_papers():
    assert len(claims()) > 25
    for row in claims():
        assert len(row) == 6, row
    papers = re.findall(r"^### .*\(arXiv (\d{4}\.\d{5})\)$", CLAIMS.read_text("utf-8"), re.MULTILINE)
    assert papers == ["2102.12122", "2106.13797", "2105.15203"]


@pytest.mark.parametrize("row", claims(), ids=lambda row: row[0][:40])
def test_a_claim_has_evidence_or_cannot_be_said(row):
    _, published, asked, found, scale, verdict = row
    assert SOURCE.search(published), "where it stands in the paper"
    word = next((word for word in VERDICTS if verdict.startswith(word)), "")
    assert word, f"one of {', '.join(VERDICTS)}"
    names = re.findall(r"\]\((\w+)/README\.md\)", asked)
    if word == "cannot be said":
        assert verdict.removeprefix(word).startswith(": "), "why not"
    else:
        assert found != "–" and scale != "–" and names, "what was measured, and at which scale"
    known = [measured(name) for name in names]
    text, values = "\n".join(text for text, _ in known), [value for _, values in known for value in values]
    assert not unexplained(found, text, values)


def test_what_follows_from_two_numbers_is_found():
    table = "| a | 4.60 |\n| b | 2.0 |"
    assert unexplained("2.3 times: 4.6 against 2.0", table, []) == []
    assert unexplained("57 % fewer: 2.0 and 4.6", table, []) == []
    assert unexplained("2.4 times: 4.6 against 2.0", table, []) == ["2.4"]
    assert unexplained("4.61 and 12.35", table, [12_345_678.0]) == ["4.61"]
    text = "One 1.5. `2.5` Two\n\n    3.5\n\n| 4.5 |\n\n- 5.5 %"
    assert [sentence for sentence in words(text) if sentence] == ["One 1.5.", "Two", "- 5.5 %"]


def test_published_columns_are_no_evidence():
    part = "| arm | published AP | AP |\n| --- | ---: | ---: |\n| a | 40.4 | 39.9 |"
    assert "40.4" not in "\n".join(without_published(part)) and "39.9" in "\n".join(without_published(part))
