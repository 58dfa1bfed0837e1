"""Commands that compute on a CPU ask for huge pages where that helps, and leave alone what they should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvt_jax import huge_pages

MADVISE = "always [madvise] never\n"


@pytest.fixture
def system(monkeypatch, tmp_path):
    """A system where huge pages help: glibc 2.35, no accelerator, pages for who asks."""
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.35")
    monkeypatch.setattr(huge_pages, "_ACCELERATORS", (tmp_path / "accelerator",))
    setting = tmp_path / "enabled"
    setting.write_text(MADVISE)
    return setting


@pytest.mark.parametrize(
    ("setting", "helps"),
    [(MADVISE, True), ("[always] madvise never\n", False), ("always madvise [never]\n", False), (None, False)],
)
def test_pages_are_asked_for_where_the_kernel_gives_them_to_who_asks(system, setting, helps):
    system.unlink() if setting is None else system.write_text(setting)
    assert huge_pages._helps({}, system) == helps


@pytest.mark.parametrize(
    ("version", "helps"),
    [("glibc 2.35", True), ("glibc 2.39", True), ("glibc 2.34", False), ("musl 1.2", False), (None, False)],
)
def test_glibc_must_know_the_wish(system, monkeypatch, version, helps):
    monkeypatch.setattr(os, "confstr", lambda name: version)
    assert huge_pages._helps({}, system) == helps


@pytest.mark.parametrize("error", [AttributeError, ValueError, OSError])
def test_a_system_without_glibc_is_left_alone(system, monkeypatch, error):
    def confstr(name):
        raise error

    monkeypatch.setattr(os, "confstr", confstr)
    assert not huge_pages._helps({}, system)


@pytest.mark.parametrize(
    ("environment", "accelerator", "helps"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"JAX_PLATFORMS": "cpu"}, True, True),
        ({"JAX_PLATFORMS": "cuda,cpu"}, False, False),
        ({"GLIBC_TUNABLES": ""}, False, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, False, False),
    ],
)
def test_accelerators_and_chosen_settings_are_left_alone(system, environment, accelerator, helps):
    if accelerator:
        (system.parent / "accelerator").touch()
    assert huge_pages._helps(environment, system) == helps


@pytest.mark.parametrize("traced", [False, True])
def test_a_process_starts_again_as_it_was_called(monkeypatch, traced):
    calls = []
    monkeypatch.setattr(huge_pages, "_helps", lambda environment: True)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "utf8", "-m", "pvt_jax.main", "--config", "digits"])
    monkeypatch.setattr(os, "execv", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "gettrace", lambda: print if traced else None)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    huge_pages.restart_with_huge_pages()
    words = [sys.executable, "-X", "utf8", "-m", "pvt_jax.main", "--config", "digits"]
    assert calls == ([] if traced else [(sys.executable, words)])
    assert os.environ.get("GLIBC_TUNABLES") == (None if traced else "glibc.malloc.hugetlb=1")


def test_it_starts_again_once():
    """In a process of its own, on whatever system this is."""
    code = (
        "import os, sys; from pvt_jax.huge_pages import restart_with_huge_pages as restart; restart(); "
        "print(os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", code, "a b", "--c"]
    root = Path(__file__).resolve().parents[1]
    found = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    wish = "glibc.malloc.hugetlb=1" if huge_pages._helps(environment) else None
    assert found.stdout == f"{wish} ['a b', '--c']\n", found.stderr
