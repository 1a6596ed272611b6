"""README, samples and the map in snapshots.py say what the code does."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import json
import re
import shutil
import subprocess
import textwrap
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import a_server
from tools import proofs
from tools.damages import DAMAGES, Damage

import snapshots

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAMPLE = ROOT / "snapshots.config.sample"
SOURCE = Path(snapshots.__file__).read_text(encoding="utf-8")
PROVIDERS = sorted(snapshots.CREDENTIAL_KEYS)


# --- reading Markdown ---


def part(heading: str) -> str:
    """What stands under a heading, up to the next heading of the same rank or a higher one."""
    rank = len(heading) - len(heading.lstrip("#"))
    lines: list[str] = []
    inside = in_code = False
    for line in README.splitlines():
        if line.lstrip().startswith("```"):
            in_code = not in_code
        marks = re.match(r"(#+) ", line)
        if marks and not in_code:
            if inside and len(marks[1]) <= rank:
                break
            inside = inside or line == heading
        if inside:
            lines.append(line)
    assert lines, f"README has no heading {heading!r}"
    return "\n".join(lines[1:])


def table(text: str) -> list[list[str]]:
    """The rows of the first table in a text, without its head."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
            rows.append([cell.strip() for cell in cells])
        elif rows:
            break
    assert len(rows) > 2, "no table"
    return rows[2:]


def code_blocks(language: str) -> list[str]:
    """The fenced blocks of a language, dedented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)\n\1```$", README, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(body) for _, body in found]


@dataclass(frozen=True)
class Block:
    """A fenced block, dedented, and the heading that it stands under."""

    heading: str
    language: str
    text: str
    line: int  # of the README, from 1


def blocks(text: str = README) -> Iterator[Block]:
    heading = ""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        fence = re.fullmatch(r"( *)```(\w*)", line)
        if fence:
            body = []
            for _, inner in lines:
                if inner == f"{fence[1]}```":
                    break
                body.append(inner)
            yield Block(heading, fence[2], textwrap.dedent("\n".join(body)) + "\n", number)
        elif line.startswith("#"):
            heading = line.lstrip("# ")


def bare(cell: str) -> str:
    """A cell that holds one `word`, as the word."""
    assert re.fullmatch(r"`[^`]+`", cell), cell
    return cell[1:-1]


def as_written(value: Any) -> str:
    """A default, as an INI file would hold it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value in (None, ()) else str(value)


def schema() -> dict[str, dict[str, Any]]:
    """{section: {key: default}}, from the dataclasses."""
    return {
        name: {f.name: f.default for f in dataclasses.fields(section)}
        for name, section in snapshots.SECTIONS.items()
    }


# --- every block has its test ---

# Every block of text and the test that holds it to what is printed: its first line's beginning.
PRINTED = {
    "An empty answer ": "test_setup.py::test_the_readme_shows_what_is_asked_and_answered",
    "web: would create ": "test_readme.py::test_a_dry_run_prints_what_the_readme_shows",
    "at 03:15 every day": "test_docs.py::test_cron_example_is_what_the_code_prints",
    "FINAL_STATUS | ": "test_docs.py::test_final_status_and_summary_examples_are_as_the_code_writes_them",
    "Snapshot Failed: ": "test_docs.py::test_the_example_of_a_summary_is_what_the_code_makes_of_such_a_run",
    "SUMMARY: ": "test_docs.py::test_final_status_and_summary_examples_are_as_the_code_writes_them",
    "mail (contabo ": "test_looking.py::test_readme_shows_what_looks_print",
    "no run is under way": "test_looking.py::test_readme_shows_what_looks_print",
    "ok       logs_dir": "test_looking.py::test_readme_shows_what_looks_print",
    "SNAPSHOTS WARNING": "test_looking.py::test_readme_shows_what_looks_print",
}
# Every other language and the test that loads its blocks.
LOADED = {
    "sh": "test_readme.py::test_commands_of_the_readme_run_as_they_stand",
    "ini": "test_docs.py::test_every_ini_block_in_the_readme_loads",
    "json": "test_docs.py::test_every_server_file_in_the_readme_loads",
    "dockerfile": "test_hosts.py::test_the_image_runs_with_a_read_only_root",
    "systemd": "test_hosts.py::test_the_units_shown_are_those_that_are_printed",
    "yaml": "test_hosts.py::test_kubernetes_takes_the_manifests",
    "crontab": "test_docs.py::test_crontab_lines_have_absolute_paths_and_no_bare_percent_sign",
}


def exists(test: str) -> bool:
    file, _, name = test.partition("::")
    return f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


@pytest.mark.proves("parties-6")
def test_every_block_of_the_readme_has_a_test() -> None:
    for block in blocks():
        if block.language == "text":
            (begins,) = [b for b in PRINTED if block.text.startswith(b)] or [""]
            assert begins, f"README, line {block.line}: no test knows what prints this"
        else:
            assert block.language in LOADED, f"README, line {block.line}: no test loads this"
    for begins in PRINTED:
        assert [b for b in blocks() if b.language == "text" and b.text.startswith(begins)], begins
    assert all(exists(test) for test in (*PRINTED.values(), *LOADED.values()))


# --- the reference tables ---


def test_readme_names_every_section_key_and_default_of_the_configuration() -> None:
    described: dict[str, dict[str, str]] = {}
    for section in re.findall(r"^#### \[([A-Z]+)\]$", README, re.MULTILINE):
        rows = table(part(f"#### [{section}]"))
        assert all(len(row) == 3 and row[2] for row in rows)
        described[section] = {
            bare(key): "" if default == "(empty)" else bare(default) for key, default, _ in rows
        }
    assert described == {
        section: {key: as_written(default) for key, default in keys.items()}
        for section, keys in schema().items()
    }
    sample = read_sample(SAMPLE)
    assert [list(keys) for keys in described.values()] == [list(sample[s]) for s in described]


def keys_of_server_files(provider: str) -> dict[str, bool]:
    """{key: is it required?} as the loader sees it."""
    required = (*snapshots.REQUIRED_KEYS, *snapshots.CREDENTIAL_KEYS[provider])
    keys = {key: key in required for key in snapshots.server_readers(provider)}
    for name in snapshots.CHANNELS:
        del keys[name]
        section = snapshots.SECTIONS[name.upper()]
        keys.update(
            (f"{name}.{f.name}", False)
            for f in dataclasses.fields(section)
            if f.metadata["override"]
        )
    return keys


def test_readme_names_every_key_of_server_files() -> None:
    titles = {"digitalocean": "DigitalOcean", "hetzner": "Hetzner", "contabo": "Contabo"}
    known = {p: keys_of_server_files(p) for p in PROVIDERS}
    described: dict[str, dict[str, bool]] = {p: {} for p in PROVIDERS}
    for key, where, needed, meaning in table(part("### Server files")):
        assert needed in ("yes", "no")
        assert meaning
        for provider in PROVIDERS:
            if where == "all" or titles[provider] in where.split(", "):
                described[provider][bare(key)] = needed == "yes"
    assert described == known


def test_readme_names_every_top_key() -> None:
    for key in snapshots.TOP_KEYS:
        assert f"`{key}`" in part("### Server files")


def report(success: bool = True) -> snapshots.Report:
    return snapshots.Report(
        a_server("web", "12345678"),
        success=success,
        snapshot_name="web-20260301031500",
        total_snapshots=3,
        error="" if success else "why",
        ended=datetime(2026, 3, 1, 3, 21, 9).astimezone(),
    )


def test_readme_names_every_template_variable() -> None:
    rows = table(part("### Template variables"))
    described = [bare(variable).strip("{}") for variable, _ in rows]
    assert sorted(described) == sorted(snapshots.values_of(report(), "backup1"))
    assert len(described) == len(set(described))


def test_readme_names_every_flag() -> None:
    described = {
        word for row in table(part("### Flags")) for word in re.findall(r"`([^`]+)`", row[0])
    }
    known: set[str] = set()
    for action in snapshots.parser()._actions:
        known.update(action.option_strings or [str(action.metavar)])
    assert described == known


def test_readme_and_help_give_the_same_meaning_to_each_exit_status() -> None:
    described = {int(status): meaning for status, meaning in table(part("### Exit statuses"))}
    helped = {
        int(status): meaning
        for status, meaning in re.findall(
            r"^  ([0-9])  (.+)$", snapshots.parser().format_help(), re.MULTILINE
        )
    }
    assert described == helped
    assert set(described) == {int(status) for status in snapshots.ExitStatus}


def test_readme_mentions_no_key_that_does_not_exist() -> None:
    known = {key for keys in schema().values() for key in keys}
    known |= {key for keys in snapshots.CREDENTIAL_KEYS.values() for key in keys}
    known |= set(snapshots.TOP_KEYS) | set(snapshots.values_of(report(), "backup1"))
    known |= {"retain_last_snapshots", "replace_when_full", "former_names", "ping_url"}
    known |= {"droplet_", "your_", "keep_"}  # beginnings of words, called so
    known |= {"per_server", "stored_gb"}  # a value, and a key of a payload
    of_json = README[README.index("**For programs:**") :].partition("\n## ")[0]
    text = re.sub(r"```.*?```", "", README.replace(of_json, ""), flags=re.DOTALL)
    mentioned = set(re.findall(r"`(?:[a-z]+\.)?([a-z]+_[a-z_]*)`", text))
    assert mentioned <= known
    for section, key in re.findall(r"`\[([A-Z]+)\] ?([a-z_]*)`", text):
        assert section in schema()
        assert not key or key in schema()[section], (section, key)


# --- examples ---


def test_retention_example_is_what_the_code_decides() -> None:
    by_hand = snapshots.Snapshot(
        "77", "before-upgrade", datetime(2026, 3, 4, 12, tzinfo=timezone.utc), "1"
    )
    cloud: list[snapshots.Snapshot] = [by_hand]
    rows = table(part("## Retention"))
    assert len(rows) == 7
    for run, new_name, deleted, left in rows:
        gone: tuple[snapshots.Snapshot, ...] = ()
        if new_name != "(failed)":
            moment = datetime.strptime(run + "T03:15:00+0000", "%Y-%m-%dT%H:%M:%S%z")
            new = snapshots.Snapshot(str(len(cloud) + 100), new_name, moment, "1")
            assert new_name == "web-" + moment.strftime("%Y%m%d%H%M%S")
            cloud.append(new)
            ours = snapshots.owned(cloud, "1", "web")
            gone = snapshots.plan_retention(ours, snapshots.Policy(3), 10, new.id).delete
            cloud = [s for s in cloud if s not in gone]
        assert deleted == (", ".join(str(s.name) for s in gone) or "-")
        newest_first = sorted(
            snapshots.owned(cloud, "1", "web"), key=snapshots.age_key, reverse=True
        )
        assert left == ", ".join(s.created.strftime("%m-%d") for s in newest_first if s.created)
    assert by_hand in cloud


@pytest.mark.proves("tiers-1")
def test_example_of_the_tiers_is_what_the_code_decides() -> None:
    text = part("## Retention")
    keys = dict(re.findall(r'`"(?:retain|keep)_([a-z]+)(?:_snapshots)?": ([0-9]+)`', text))
    policy = snapshots.Policy(**{key: int(value) for key, value in keys.items()})
    assert dataclasses.astuple(policy) == (2, 4, 3, 0, 3, 0)
    held: list[snapshots.Snapshot] = []
    moment = datetime(2026, 2, 12, 3, 15, tzinfo=timezone.utc)
    while moment < datetime(2026, 3, 7, tzinfo=timezone.utc):
        name = "web-" + moment.strftime("%Y%m%d%H%M%S")
        held.append(snapshots.Snapshot(moment.strftime("%m%d"), name, moment, "1"))
        plan = snapshots.plan_retention(held, policy, 10, held[-1].id)
        held = [s for s in held if s not in plan.delete]
        moment += timedelta(days=1)
    rows = table(text[text.index("| Snapshot | Why it stays |") :])
    assert rows == [[str(s.name), ", ".join(why)] for s, why in plan.keep]


def test_two_rhythms_for_one_server_do_not_touch_each_other() -> None:
    assert "`web-weekly`" in part("## Retention")
    weekly = snapshots.snapshot_name("web-weekly", datetime(2026, 3, 1, tzinfo=timezone.utc))
    nightly = snapshots.snapshot_name("web", datetime(2026, 3, 1, tzinfo=timezone.utc))
    assert not snapshots.is_named_like_ours(weekly, "web")
    assert not snapshots.is_named_like_ours(nightly, "web-weekly")


def test_contabo_name_example_is_what_the_code_makes_of_it() -> None:
    name, label = re.findall(r"`([^`]+)` becomes `([^`]+)`", part("### Contabo"))[0]
    assert snapshots.contabo_label(name) == label


def test_final_status_and_summary_examples_are_as_the_code_writes_them() -> None:
    line = snapshots.final_status_line(report(), "backup1")
    assert line in README.splitlines()
    assert len(line.split(" | ")) == 9
    good, bad = report(), report(success=False)
    assert snapshots.summary_line([good, good, bad], 1) in README.splitlines()


def test_built_in_payload_is_as_the_code_makes_it() -> None:
    payload = snapshots.webhook_payloads(snapshots.WebhookSection(), report(), "backup1")[0]
    assert payload in [json.loads(block) for block in code_blocks("json")]


def holding(report: snapshots.Report, deleted: int = 0, **more: Any) -> snapshots.Report:
    """The report with three snapshots kept, of 6.9 GB each, and so many deleted."""
    snapshot = snapshots.Snapshot("1", "s", report.ended, "1", size_gb=6.9)
    kept = ((snapshot, ("last",)),) * 3
    return dataclasses.replace(report, kept=kept, deleted=(snapshot,) * deleted, **more)


def test_the_payload_of_a_summary_is_as_the_code_makes_it() -> None:
    summary = snapshots.summary_of(
        [holding(report(), 1)], 0, "2026-03-02 03:15 CET, in 23 h 54 min"
    )
    payload = snapshots.webhook_payloads(snapshots.WebhookSection(), summary, "backup1")[0]
    assert payload in [json.loads(block) for block in code_blocks("json")]


def test_the_example_of_a_summary_is_what_the_code_makes_of_such_a_run() -> None:
    web = holding(report(), 1, warnings=("its listing came late",))
    mail = holding(report(), server=a_server("mail", "3"), snapshot_name="mail-20260301031500")
    db = dataclasses.replace(
        report(False),
        server=a_server("db", "2"),
        error="cannot create a snapshot of server 12345679: HTTP 403: the token may only read",
        ended=report().ended + timedelta(seconds=181),
    )
    summary = snapshots.summary_of([web, db, mail], 1, "2026-03-02 03:15 CET, in 23 h 51 min")
    (body, *_) = snapshots.telegram_bodies(snapshots.TelegramSection(), summary, "backup1")
    text = re.sub("<[^>]+>", "", body["text"])
    assert text in code_blocks("text")


def test_dry_run_example_uses_the_words_of_the_code() -> None:
    block = next(b for b in code_blocks("text") if b.startswith("web: would create"))
    for line in block.splitlines():
        for words in re.sub(
            r"^web: |web-[0-9]+|\(.*\)|[0-9]+|before-upgrade|, |: ", "…", line
        ).split("…"):
            assert is_a_text_of_the_code(words), words


def test_every_server_file_in_the_readme_loads(tmp_path: Path) -> None:
    providers: list[str] = []
    others = 0
    for number, block in enumerate(code_blocks("json")):
        content = json.loads(block)
        if set(content) & set(snapshots.TOP_KEYS):
            path = tmp_path / f"{number}.json"
            write_filled_in(path, content)
            server, _ = snapshots.load_server(path, snapshots.Settings(base=tmp_path))
            assert isinstance(server, snapshots.Server), server.error
            providers.append(server.provider)
        else:
            others += 1
    assert set(providers) == set(PROVIDERS)
    assert others == 2  # the built-in payloads, see above


def test_every_ini_block_in_the_readme_loads(tmp_path: Path) -> None:
    blocks = code_blocks("ini")
    assert len(blocks) >= 6
    for block in blocks:
        path = tmp_path / "snapshots.config"
        path.write_text(block, encoding="utf-8")
        path.chmod(0o600)
        settings = snapshots.load_settings(path, required=True)
        assert {remark.level for remark in settings.remarks} <= {snapshots.Level.NOTE}


@pytest.mark.skipif(shutil.which("sh") is None, reason="no sh")
def test_every_shell_block_in_the_readme_can_be_pasted() -> None:
    for block in code_blocks("sh"):
        result = subprocess.run(["sh", "-n"], input=block, text=True, capture_output=True)
        assert (result.returncode, result.stderr) == (0, ""), block


def by_hand() -> list[str]:
    """The lines for people who write their crontab themselves."""
    lines = [line for block in code_blocks("crontab") for line in block.splitlines()]
    return [line for line in lines if not re.match(r"[A-Z]+=", line)]


@pytest.mark.proves("Q4")
def test_crontab_lines_have_absolute_paths_and_no_bare_percent_sign() -> None:
    lines = by_hand()
    assert len(lines) == 2
    for line in lines:
        schedule, command = line.split(" cd ", 1)
        assert re.fullmatch(r"[0-9]+ [0-9]+ \* \* \*", schedule)
        assert not re.search(r"(?<!\\)%", command)
        words = [word for word in command.split() if "/" in word]
        assert all(word.startswith("/") for word in words)
    assert ">> /" in lines[0]
    assert lines[0].endswith("2>&1")
    assert lines[1].endswith(" -q")


def test_cron_example_is_what_the_code_prints() -> None:
    block = next(b for b in code_blocks("text") if b.startswith("at 03:15"))
    words, *told = block.splitlines()
    now = datetime(2026, 11, 25, 16, 33, tzinfo=timezone.utc)
    schedule = snapshots.parse_schedule("nightly")
    assert words == snapshots.in_words(schedule)
    starts = snapshots.starts_after(schedule, now, zoneinfo.ZoneInfo("Europe/Berlin"))
    for line, start in zip(told[:3], starts):
        wait = snapshots.span((start - now).total_seconds())
        assert line == f"next run: {start:%Y-%m-%d %H:%M %Z}, in {wait}"
    base = Path("/opt/snapshots")
    command = [f"{base}/.venv/bin/python", f"{base}/snapshots.py"]
    job = snapshots.CronJob(base / "snapshots.config", base / "logs", command)
    assert told[3:6] == job.block(schedule)
    for part in re.split(r"backup: |\(|/opt\S+", told[6]):
        assert is_a_text_of_the_code(part), part
    assert by_hand()[0] == job.block(schedule)[1]


def test_every_word_for_when_is_described() -> None:
    described = [
        word for row in table(part("## Cron")) for word in re.findall(r"`([^`]+)`", row[0])
    ]
    assert set(snapshots.PRESETS) <= set(described)
    for word in described:
        snapshots.parse_schedule(word.strip('"'))


# --- texts of the code that README explains ---


def texts_of(source: str) -> list[str]:
    """Every text literal of a Python source, f-strings with … in place of each value."""
    texts: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            texts.append(
                "".join(
                    str(value.value) if isinstance(value, ast.Constant) else "…"
                    for value in node.values
                )
            )
    return texts


TEXTS = texts_of(SOURCE)


def is_a_text_of_the_code(words: str) -> bool:
    """Does this stand in a text literal of snapshots.py (or is it punctuation alone)?"""
    words = words.strip(" :;,()")
    return not re.search("[A-Za-z]", words) or any(words in text for text in TEXTS)


@pytest.mark.proves("parties-8")
def test_every_message_under_trouble_is_one_that_the_code_writes() -> None:
    rows = table(part("## Trouble"))
    assert len(rows) > 30
    for message, meaning, fix in rows:
        assert meaning
        assert fix
        for words in bare(message).split("…"):
            assert is_a_text_of_the_code(words), message


def test_a_message_that_the_code_does_not_write_would_be_noticed() -> None:
    assert is_a_text_of_the_code("; nothing was pruned")
    assert not is_a_text_of_the_code("the snapshot went to lunch")


def test_new_template_variables_named_under_migrating_exist() -> None:
    row = next(r for r in table_of_changes() if r[0] == "Messages")
    named = re.findall(r"`\{([a-z_]+)\}`", row[2])
    assert len(named) == 5
    assert set(named) <= set(snapshots.values_of(report(), "backup1"))


def table_of_changes() -> list[list[str]]:
    return table(part("## Migrating from drhdev/snapshots 0.3"))


def test_defaults_named_under_migrating_are_the_defaults() -> None:
    timing = snapshots.Timing()
    told = {row[0]: row[2] for row in table_of_changes()}
    assert told["`delay_between_servers`"].startswith(f"{timing.delay_between_servers},")
    assert told["`snapshot_creation_timeout`"].startswith(f"{timing.snapshot_creation_timeout}.")


def test_place_for_the_benchmark_is_there() -> None:
    lines = [line for line in part("## How fast").splitlines() if line]
    assert "<!-- bench:begin -->" in lines
    assert "<!-- bench:end -->" in lines[lines.index("<!-- bench:begin -->") :]


def test_links_inside_the_readme_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", README, flags=re.DOTALL), re.M)
    anchors = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }
    targets = re.findall(r"\]\(#([^)]+)\)", README)
    assert targets
    assert set(targets) <= anchors


def test_files_named_under_development_exist() -> None:
    named = [
        word for row in table(part("## Development")) for word in re.findall(r"`(.+?)`", row[0])
    ]
    assert len(named) > 5
    for name in named:
        assert list(ROOT.glob(name)), name


def test_readme_ends_with_license_and_names_it() -> None:
    assert "GPL-3.0" in part("## License")
    assert "GNU GENERAL PUBLIC LICENSE" in (ROOT / "LICENSE").read_text(encoding="utf-8")


# --- samples ---


def sample_of(provider: str) -> Path:
    return ROOT / "configs" / f"{provider}.json.sample"


def write_filled_in(path: Path, content: dict[str, Any]) -> None:
    """Write a server file with its required placeholders replaced."""
    inner = next(iter(content.values()))
    for key, value in inner.items():
        if isinstance(value, str) and snapshots.PLACEHOLDER.fullmatch(value):
            inner[key] = 12345678 if key == "id" else f"filled-in-{key}"
    path.write_text(json.dumps(content), encoding="utf-8")
    path.chmod(0o600)


def read_sample(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def test_sample_configuration_has_every_section_and_key_with_its_default() -> None:
    parser = read_sample(SAMPLE)
    written = {section: dict(parser[section]) for section in parser.sections()}
    assert written == {
        section: {key: as_written(default) for key, default in keys.items()}
        for section, keys in schema().items()
    }


def test_sample_configuration_loads_as_the_defaults() -> None:
    settings = snapshots.load_settings(SAMPLE, required=True)
    assert settings == snapshots.Settings(base=ROOT)


def test_examples_in_the_comments_of_the_sample_load(tmp_path: Path) -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    examples = re.findall(r"^# e\.g\. ([a-z_]+) = ", text, re.MULTILINE)
    assert len(examples) >= 5
    section, lines = "", []
    for line in text.splitlines():
        header = re.fullmatch(r"\[([A-Z]+)\]", line)
        example = re.fullmatch(r"# e\.g\. ([a-z_]+ = .+)", line)
        if header:
            section = header[1]
            lines.append(line)
        elif example:
            assert section
            lines.append(example[1])
    path = tmp_path / "snapshots.config"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert snapshots.load_settings(path, required=True).problems == ()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_sample_server_file_lacks_just_what_its_placeholders_stand_for(provider: str) -> None:
    path = sample_of(provider)
    server, _ = snapshots.load_server(path, snapshots.Settings(base=ROOT))
    assert isinstance(server, snapshots.BadServer)
    keys = ("id", "name", *snapshots.CREDENTIAL_KEYS[provider])
    problems = [f"{key}: is missing, or still the sample's text" for key in keys]
    assert server.error == f"{path}: {'; '.join(problems)}"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_sample_server_file_loads_once_filled_in(provider: str, tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    write_filled_in(path, json.loads(sample_of(provider).read_text(encoding="utf-8")))
    config = tmp_path / "snapshots.config"
    config.write_text(
        "[TELEGRAM]\nbot_token = 123:abcdefgh\nchat_id = 1\n"
        "[WEBHOOK]\nenabled = true\nurl = https://hooks.example.org/abcdefgh\n"
        "[SMTP]\nenabled = true\nserver = mail.example.org\n"
        "from_email = a@example.org\nto_emails = b@example.org\n"
    )
    settings = snapshots.load_settings(config, required=True)
    server, remarks = snapshots.load_server(path, settings)
    assert (server.provider, server.id, server.name) == (provider, "12345678", "filled-in-name")
    assert remarks == []
    # whoever copies it is notified over every channel that snapshots.config has, now or later
    assert list(server.destinations) == list(snapshots.default_channels(settings))
    assert len(server.destinations) == 3


@pytest.mark.parametrize("provider", PROVIDERS)
def test_sample_server_file_shows_only_known_keys(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(sample_of(provider).read_text(encoding="utf-8"))
    shown: set[str] = set()
    for key, value in next(iter(content.values())).items():
        channel = key in ("telegram", "webhook", "smtp")
        shown |= {f"{key}.{inner}" for inner in value} if channel else {key}
    known = keys_of_server_files(provider)
    assert {key for key, required in known.items() if required} <= shown <= set(known)


# --- the file itself ---


def test_map_in_the_docstring_is_the_order_of_the_parts() -> None:
    banners = re.findall(r"^# === (.+?) =+$", SOURCE, re.MULTILINE)
    mapped = (snapshots.__doc__ or "").split("parts above it):")[1]
    assert [name.strip() for name in mapped.split("|")] == [
        name.replace(" (pure)", "") for name in banners
    ]


def test_script_block_and_requirements_name_the_same_packages() -> None:
    block = re.search(r"^# dependencies = (\[.+\])$", SOURCE, re.MULTILINE)
    assert block
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert json.loads(block[1]) == required


def is_ignored(path: str) -> bool:
    """Asks git; skips the test where there is no git or no checkout."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    result = subprocess.run(
        [git, "check-ignore", "-q", "--no-index", path], cwd=ROOT, capture_output=True
    )
    if result.returncode not in (0, 1):
        pytest.skip("git cannot be asked here")
    return result.returncode == 0


@pytest.mark.parametrize(
    "path", ["snapshots.config", "configs/web.json", "logs/snapshots.log", ".venv/bin/python"]
)
def test_git_keeps_what_holds_secrets_out(path: str) -> None:
    assert is_ignored(path)


@pytest.mark.parametrize(
    "path",
    ["snapshots.config.sample", "logs/.gitkeep", *(f"configs/{p}.json.sample" for p in PROVIDERS)],
)
def test_git_keeps_the_samples(path: str) -> None:
    assert not is_ignored(path)


# --- the tables of proofs in tests/README.md ---


def test_the_tables_of_proofs_are_made_from_the_marks_in_the_tests() -> None:
    text = proofs.README.read_text(encoding="utf-8")
    assert proofs.filled(text) == text, "run: python tests/tools/proofs.py"
    known = proofs.rows(text)
    assert len(known) > 200
    assert not [row for row, (_, proof) in known.items() if proof == "nothing"]
    assert not set(proofs.marks()) - set(known), "a mark names a row that no table has"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.title)
def test_every_damage_on_purpose_finds_its_place(damage: Damage) -> None:
    """Whether it is noticed, tests/tools/damages.py tries."""
    assert Path(snapshots.__file__).read_text(encoding="utf-8").count(damage.old) == 1
