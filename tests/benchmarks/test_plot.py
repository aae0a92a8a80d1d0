"""The picture says what the file of figures says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks.plot import draw

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def peer(*values: float, busy: float = 0.5) -> dict[str, Any]:
    generator = {"working": busy, "waiting": 0.0}
    return {
        "median": sorted(values)[len(values) // 2],
        "rounds": [{"value": value, "generator": generator} for value in values],
    }


def document(*works: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": "2026-11-21T06:52:03+00:00",
        "machine": {
            "processor": "A <fast> one",
            "cores": 2,
            "kernel": "Linux 6.1",
            "python": "CPython 3.11.7",
        },
        "options": {"rounds": 3},
        "works": list(works),
    }


def echo(**peers: dict[str, Any]) -> dict[str, Any]:
    return {"name": "echo", "unit": "echoes/s", "better": "higher", "failures": {}, "peers": peers}


def picture(*works: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(draw(document(*works)))


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def bars(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [element for element in root.iter(f"{SVG}rect") if "bar" in element.get("class", "").split()]


def widths(root: ElementTree.Element) -> list[float]:
    return [float(bar.get("width", "")) for bar in bars(root)]


def test_bars_are_as_long_as_the_medians_and_the_best_is_on_top() -> None:
    drawn = picture(echo(slow=peer(90, 100, 110), hubbub=peer(390, 400, 440), other=peer(200, 200, 200)))

    first, *rest = widths(drawn)
    assert rest == [pytest.approx(first / 2, abs=0.1), pytest.approx(first / 4, abs=0.1)]
    assert [told for told in texts(drawn) if told in ("slow", "hubbub", "other")] == [
        "hubbub",
        "other",
        "slow",
    ]
    assert {"400", "200", "100"} <= set(texts(drawn))


def test_less_is_better_where_the_file_says_so() -> None:
    memory = echo(hubbub=peer(8), other=peer(4)) | {"better": "lower", "unit": "kB each"}
    drawn = picture(memory)

    assert [told for told in texts(drawn) if told in ("hubbub", "other")] == ["other", "hubbub"]
    assert "kB each; less is better" in texts(drawn)


def test_hubbub_is_highlighted() -> None:
    drawn = picture(echo(other=peer(500), hubbub=peer(400)))

    assert ["own" in bar.get("class", "").split() for bar in bars(drawn)] == [False, True]


def test_a_line_shows_the_spread_of_the_rounds() -> None:
    drawn = picture(echo(hubbub=peer(50, 100, 200)))

    [bar] = bars(drawn)
    [spread] = [path for path in drawn.iter(f"{SVG}path") if path.get("class") == "spread"]
    left, width = float(bar.get("x", "")), float(bar.get("width", ""))
    from_, to = spread.get("d", "").removeprefix("M").split("H")
    assert float(from_.split()[0]) == pytest.approx(left + width / 2, abs=0.1)
    assert float(to) == pytest.approx(left + width * 2, abs=0.1)


def test_the_floor_is_left_out_and_who_failed_is_named() -> None:
    drawn = picture(echo(floor=peer(9000), hubbub=peer(400)) | {"failures": {"other": "it hung"}})

    assert len(bars(drawn)) == 1
    assert "floor" not in texts(drawn)
    assert texts(drawn)[texts(drawn).index("other") + 1] == "failed"


def test_a_rate_that_the_generator_held_up_is_marked() -> None:
    drawn = picture(echo(hubbub=peer(400, busy=0.99), other=peer(300)))

    assert {"≥ 400", "300"} <= set(texts(drawn))


def test_nothing_reaches_out_of_the_picture() -> None:
    drawn = picture(*(echo(hubbub=peer(1e6, 2e6, 3e6), other=peer(1, 1, 1)) for _ in range(5)))

    _, _, width, height = map(float, drawn.get("viewBox", "").split())
    for bar in bars(drawn):
        assert float(bar.get("x", "")) + float(bar.get("width", "")) <= width
    assert all(0 <= float(text.get("y", "")) <= height for text in drawn.iter(f"{SVG}text"))


def plot(results: Path, drawn: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.plot", str(results), str(drawn)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    results = tmp_path / "figures.json"
    results.write_text(json.dumps(document(echo(hubbub=peer(400), other=peer(300)))))
    pictures = tmp_path / "images" / "one.svg", tmp_path / "images" / "two.svg"
    for drawn in pictures:
        done = plot(results, drawn)
        assert done.returncode == 0, done.stderr

    one, two = (drawn.read_bytes() for drawn in pictures)
    assert one == two
    assert "A <fast> one" in " ".join(texts(ElementTree.fromstring(one)))


def test_figures_that_the_benchmarks_have_kept_can_be_drawn() -> None:
    for kept in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        assert bars(ElementTree.fromstring(draw(json.loads(kept.read_text()))))


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_file_of_something_else_is_refused_and_nothing_is_written(tmp_path: Path, content: str) -> None:
    results = tmp_path / "something.json"
    results.write_text(content)

    done = plot(results, tmp_path / "picture.svg")

    assert done.returncode == 2
    assert "no file of figures" in done.stderr
    assert not (tmp_path / "picture.svg").exists()
