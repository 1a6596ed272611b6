"""Do the tests notice? Each damage below is done to a copy of the tool, and tests must then fail.

They are the mistakes that lose or double a snapshot, leak a credential, or leave a failure
unreported; what else could be wrong the tests alone have to find. Each is an exact text of
snapshots.py and what stands there instead; if the text is not found exactly once, the tool has
changed and the damage must be written anew: that fails as well.

usage: python tests/tools/damages.py [WORD ...]     all, or those in whose title a word occurs
Exit status 0 if every damage was noticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Damage:
    """What goes wrong, the text, what stands there instead, and the tests that must notice."""

    title: str
    old: str
    new: str
    tests: tuple[str, ...]


def damage(title: str, old: str, new: str, *tests: str) -> Damage:
    return Damage(title, old, new, tests)


RUN = "test_run.py::test_1_each_night_a_new_snapshot_is_verified_and_the_oldest_goes"
OURS = "test_retention.py::test_ours_is_exactly_what_was_made_from_this_server_and_named_by_us"
STRANGERS = "test_faults.py::test_everything_that_is_not_ours_stays_even_if_filters_are_ignored"
NEWEST_STAY = "test_retention.py::test_the_newest_stay_and_the_rest_go_oldest_first"
ADOPTED = "test_faults.py::test_a_create_that_was_carried_out_without_an_answer_is_adopted"
SAME_NAME = "test_faults.py::test_an_older_snapshot_of_the_same_name_is_never_taken_for_the_new_one"
ADD_UP = "test_faults.py::test_pages_that_do_not_add_up_prune_nothing"
DELETE_FAILS = "test_faults.py::test_a_delete_that_fails_is_a_failure_and_does_not_stop_the_others"
HOLDS_LOCK = "test_cli.py::test_a_second_run_leaves_at_once_with_3_and_touches_nothing"
NO_LEAK = "test_notify.py::test_no_fault_shows_the_token_or_the_url"

DAMAGES = [
    # --- what is ours ---
    damage(
        "the ownership check is dropped",
        "    return [s for s in snapshots if not why_not_ours(s, server_id, *labels)]\n",
        "    return [s for s in snapshots if s.created]\n",
        OURS,
        STRANGERS,
    ),
    damage(
        "another server's snapshots are taken for this one's",
        '    if snapshot.server_id != server_id:\n        return "not made from this server"\n',
        "",
        STRANGERS,
    ),
    damage(
        "a name that only begins like ours is ours",
        '    return re.fullmatch(re.escape(label) + r"-[0-9]{14}", name) is not None\n',
        '    return name.startswith(f"{label}-")\n',
        STRANGERS,
    ),
    damage(
        "a server's name is a pattern",
        're.fullmatch(re.escape(label) + r"-[0-9]{14}", name)',
        're.fullmatch(label + r"-[0-9]{14}", name)',
        "test_retention.py::test_a_server_name_is_text_not_a_pattern",
    ),
    damage(
        "protection is ignored",
        '    if snapshot.protected:\n        return "delete-protected"\n',
        "",
        "test_faults.py::test_a_protected_one_is_never_tried",
        STRANGERS,
    ),
    damage(
        "unusable snapshots count",
        '    if not snapshot.usable:\n        return f"not usable: {snapshot.state}"\n',
        "",
        STRANGERS,
    ),
    damage(
        "a turn that only prunes does not look at its newest snapshot a second time",
        "    if newest not in listing:\n",
        "    if False:\n",
        "test_rhythm.py::test_prune_only_holds_to_a_newest_that_is_gone_a_moment_later",
    ),
    damage(
        "a snapshot that is still being made is made a second time",
        '    if newest is not None:\n        text = f"snapshot',
        '    if False:\n        text = f"snapshot',
        "test_rhythm.py::test_one_that_is_listed_as_being_made_is_waited_for_though_the_server_is_free",
    ),
    # --- what stays ---
    damage(
        "one too few stays",
        "if policy.last is None or index < policy.last:",
        "if policy.last is None or index < policy.last - 1:",
        NEWEST_STAY,
        RUN,
    ),
    damage(
        "the newest go instead of the oldest",
        "newest_first = sorted(ours, key=age_key, reverse=True)",
        "newest_first = sorted(ours, key=age_key)",
        RUN,
    ),
    damage(
        "a retention of 0 is accepted",
        "    if policy.last is not None and policy.last < 1:\n",
        "    if policy.last is not None and policy.last < 0:\n",
        "test_retention.py::test_a_retention_that_would_delete_everything_is_refused",
    ),
    damage(
        "the max_per_run is forgotten",
        "    return Plan(keep, due[:max_per_run], due[max_per_run:])\n",
        "    return Plan(keep, due, ())\n",
        "test_faults.py::test_the_brake_deletes_the_ten_oldest_and_warns",
    ),
    damage(
        "a tier's newest of a slot is not the one that stays",
        "                if slot_of(moment) not in taken:\n"[4:],
        "            if slot_of(moment) not in taken and index:\n",
        "test_retention.py::test_restic_keeps_the_same",
    ),
    damage(
        "the oldest goes though a tier has places left",
        "        found[-1] += oldest\n",
        "        pass\n",
        "test_retention.py::test_a_year_of_nights_ends_with_what_the_tiers_say",
    ),
    # --- the create ---
    damage(
        "a create that got a 504 is simply sent again",
        "Outcome.LOST: (Next.RETRY, Next.VERIFY, ",
        "Outcome.LOST: (Next.RETRY, Next.RETRY, ",
        ADOPTED + "[504-hetzner]",
    ),
    damage(
        "a lost create is sent again without a look",
        "    found = find_lost_create(turn, error)\n",
        "    found = None\n",
        "test_providers.py::test_a_create_that_was_done_at_once_but_got_no_answer_is_adopted",
    ),
    damage(
        "a lost create is adopted by its name, however old it is",
        "if snapshot.server_id and snapshot.created and snapshot.created >= since:",
        "if snapshot.server_id:",
        SAME_NAME + "[hetzner]",
    ),
    damage(
        "a lost create is adopted by our own clock",
        "        moment = api.server_time(self.asked)\n",
        "        moment = self.world.clock.now() - timedelta(seconds=1)\n",
        "test_faults.py::test_adoption_goes_by_the_providers_clock_not_by_ours",
    ),
    damage(
        "a pause of the machine hides a snapshot",
        "            moment = min(moment, self.asked_here)",
        "            pass",
        "test_cli.py::test_a_machine_that_is_paused_finds_its_snapshot_all_the_same",
    ),
    # --- verify ---
    damage(
        "what was reported done need not be in the listing",
        "        new = find_new(turn, ticket, listing)\n",
        "        new = find_new(turn, ticket, listing)\n"
        "        if new is None and ticket.action_id is not None:\n"
        '            new = Snapshot("1", turn.name, turn.world.clock.now(), turn.server.id)\n',
        "test_faults.py::test_a_snapshot_that_never_shows_is_a_failure_and_nothing_is_pruned",
    ),
    damage(
        "pruned by a listing from before the new one",
        "    ticket = wait_until_done(turn, ticket)\n    listing = verify(turn, ticket)\n",
        "    listing = turn.listing()\n    ticket = wait_until_done(turn, ticket)\n"
        "    verify(turn, ticket)\n",
        RUN,
    ),
    damage(
        "a snapshot that is not finished in time passes",
        "    if progress.state is State.RUNNING:\n        raise creation_timed_out(turn, turn.account.poll_trouble)\n",
        "",
        "test_faults.py::test_a_snapshot_that_never_ends_is_overdue_and_nothing_is_pruned",
    ),
    # --- listings ---
    damage(
        "only the first page is read",
        "                if not page.more:\n                    if page.total is not None and",
        "                if number:\n                    if page.total is None and",
        "test_faults.py::test_the_brake_deletes_the_ten_oldest_and_warns",
    ),
    damage(
        "an incomplete listing is good enough",
        "                raise ApiError(doing, Attempt(Outcome.GARBLED, str(error))) from None\n",
        "                return list(found.items())\n",
        ADD_UP,
    ),
    damage(
        "a listing that began before the question answers it",
        "            if self._answers_late:\n",
        "            if True:\n",
        "test_fleet.py::test_a_question_during_a_listing_is_answered_by_the_next_one",
    ),
    damage(
        "things are deleted while a listing is read",
        "            while self._is_sending:\n",
        "            while False:\n",
        "test_listings.py::test_a_delete_waits_until_the_listing_under_way_has_been_read",
    ),
    damage(
        "any text is an id",
        "    if not re.fullmatch(pattern, str(value)):\n",
        "    if not str(value):\n",
        "test_http.py::test_an_id_that_could_bend_a_path_is_refused",
    ),
    # --- deletes ---
    damage(
        "nobody sees whether the deleted are gone",
        "    left, unread = wait_until_gone(turn, asked)\n",
        '    left, unread = [], ""\n',
        "test_faults.py::test_one_reported_as_deleted_that_stays_is_a_failure",
    ),
    damage(
        "a not-found proves a deletion even where reads find nothing",
        "    if turn.account.reads_find(turn.verified):\n",
        "    if True:\n",
        "test_refusals.py::test_where_reads_do_not_find_what_is_there_a_listing_decides",
    ),
    damage(
        "a gateway's words pass for the API's own",
        "            with contextlib.suppress(GarbledError):\n                own_code = self",
        '            own_code = "not_found"\n            if False:\n                own_code = self',
        "test_refusals.py::test_a_create_is_looked_for_after_a_404_that_is_not_the_apis_own",
    ),
    damage(
        "a delete that fails is no failure",
        "            else:\n                failures.append(str(error))\n",
        "",
        DELETE_FAILS,
    ),
    damage(
        "the oldest goes first although nobody switched that on",
        "    if turn.server.replace_when_full:\n",
        "    if True:\n",
        "test_faults.py::test_contabo_full_without_the_switch_names_the_key_and_the_risk",
    ),
    damage(
        "room is made before the server is known to be there",
        "    turn.provider.check_server(turn.server.id)\n    listing = turn.listing()\n    ours",
        "    listing = turn.listing()\n    ours",
        "test_faults.py::test_contabo_room_is_not_made_before_all_is_checked",
    ),
    # --- requests ---
    damage(
        "a netrc replaces the token",
        '                headers={"x-request-id": request_id},\n                auth=self.auth,\n',
        "                headers={'Authorization': f\"Bearer {getattr(self.auth, 'token', '')}\"},\n",
        "test_faults.py::test_a_netrc_cannot_replace_the_token",
    ),
    damage(
        "a trickle has all the time in the world",
        "self._deadline = None if timeout is None else time.monotonic() + timeout",
        "self._deadline = None",
        "test_http.py::test_an_answer_whose_time_is_up_is_not_read_any_further",
    ),
    # --- the lock ---
    damage(
        "the lock is let go early",
        "        yield\n    finally:\n        with contextlib.suppress(OSError):  # the run",
        "    finally:\n        os.close(descriptor)\n    yield\n    with contextlib.suppress(OSError):  #",
        HOLDS_LOCK,
    ),
    damage(
        "the lock file is removed at the end",
        "        yield\n    finally:\n        with contextlib.suppress(OSError):  # the run",
        "        yield\n    finally:\n        os.unlink(path)\n"
        "        with contextlib.suppress(OSError):  #",
        "test_cli.py::test_a_stale_lock_file_is_no_lock",
    ),
    # --- the truth ---
    damage(
        "an unexpected error in a turn is a success",
        "        error_text = message_of(error, turn.world.redact)\n    if error_text:\n",
        '        error_text = ""\n    if error_text:\n',
        "test_fleet.py::test_an_exception_in_one_turn_costs_that_server_alone",
    ),
    damage(
        "a run that cannot start ends with 0",
        "        notify_run_failure(error_text, settings, world)\n    return ExitStatus.FAILED\n",
        "        notify_run_failure(error_text, settings, world)\n    return ExitStatus.OK\n",
        "test_cli.py::test_a_configuration_problem_stops_the_run_before_anything",
    ),
    damage(
        "one success makes the night green",
        "    if failed == 0:\n        return ExitStatus.OK\n",
        "    if failed < len(reports):\n        return ExitStatus.OK\n",
        "test_cli.py::test_one_of_two_failing_is_2_and_all_failing_is_1",
    ),
    # --- secrets ---
    damage(
        "an error is reported in the library's words, which hold the URL",
        "    reason = network_reason(error, has_begun=False)\n    refusals",
        "    reason = str(error)\n    refusals",
        "test_notify.py::test_nobody_there_is_reported_without_the_address",
    ),
    damage(
        "nothing is masked on the screen and in the log",
        "                if text.startswith(form, first):\n",
        "                if not text:\n",
        NO_LEAK,
    ),
    damage(
        "a text is cut before it is masked",
        "        return one_line(self(text), limit)\n",
        "        return self(one_line(text, limit))\n",
        "test_notify.py::test_no_text_is_cut_within_a_credential",
    ),
    damage(
        "a mail server's certificate is not verified",
        "        client.starttls(context=context)\n",
        "        client.starttls()\n",
        "test_notify.py::test_a_mail_server_with_a_bad_certificate_learns_nothing",
    ),
    # --- summaries and pings ---
    damage(
        "a summary puts the failures last",
        "sorted(reports, key=lambda report: (report.success,",
        "sorted(reports, key=lambda report: (not report.success,",
        "test_summary.py::test_a_run_is_one_message_failures_first",
    ),
    damage(
        "a summary does not say how many it leaves out",
        'more = [f"... and {left} more"] if left else []',
        "more: list[str] = []",
        "test_summary.py::test_two_hundred_failures_fit_everywhere_and_are_counted",
    ),
    damage(
        "a summary of failures is not for who hears of failures alone",
        "            if any(wants(destination, report, self.mode) for destination, report in items):",
        "            if all(wants(destination, report, self.mode) for destination, report in items):",
        "test_summary.py::test_a_destination_is_notified_of_all_if_it_wants_one",
    ),
    damage(
        "a crash of our own loses the summary",
        "    finally:  # what was kept for a summary is sent, whatever happened",
        "    finally:\n        if sys.exc_info()[0]:\n            raise SnapshotsError('crash')",
        "test_summary.py::test_a_crash_of_our_own_loses_no_summary",
    ),
    damage(
        "a failed run pings success",
        '    return "failure" if exit_status(reports) else "success"',
        '    return "success"',
        "test_pings.py::test_a_failure_is_called_with_what_failed",
    ),
    damage(
        "a run in which nothing was due always pings success",
        "        if reports or all_well(entries, settings.history_path):",
        "        if True:",
        "test_pings.py::test_nothing_due_is_a_success_only_after_successes",
        "test_pings.py::test_nothing_due_and_no_history_is_no_success",
    ),
    damage(
        "a run of one FILE pings for the whole fleet",
        "    if (args.files or args.prune_only) and not args.test_notifications:",
        "    if args.prune_only and not args.test_notifications:",
        "test_pings.py::test_what_is_not_the_whole_job_calls_nobody",
    ),
    damage(
        "the suffix of a ping goes behind the query",
        'return path.rstrip("/") + PING_SUFFIXES[event] + mark + query',
        "return url + PING_SUFFIXES[event]",
        "test_pings.py::test_a_slug_that_is_made_by_the_first_call",
    ),
    damage(
        "a check that is not there counts as pinged",
        r'        r"OK \(not found\)\s*$": 404,',
        r'        r"OK no": 404,',
        "test_pings.py::test_an_unknown_check_is_explained_by_both_kinds",
    ),
    damage(
        "two servers share a check",
        '            yield ("ping", check_of(entry.ping_url)), ',
        "            yield (entry.source, entry.id), ",
        "test_pings.py::test_one_check_for_two_servers_is_an_error_of_both",
    ),
    damage(
        "a test raises an alarm, or ends one",
        '"log": "/log"}',
        '"log": ""}',
        "test_pings.py::test_the_test_logs_and_changes_no_state",
    ),
]


def run_tests(folder: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """(exit status, output) of pytest on these tests, in a copy of the project."""
    command = [sys.executable, "-m", "pytest", "-x", "--no-header", "--tb=line", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=folder / "tests",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return 1, "the tests did not end"
    return done.returncode, done.stdout


def copy_of_the_project(folder: Path) -> Path:
    """What the tests need, in a directory of its own."""
    target = folder / "project"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "logs", "*.lock")
    shutil.copytree(TOP, target, ignore=ignore)
    return target


def try_one(item: Damage) -> str:
    """'' if the tests notice the damage, else what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        target = copy_of_the_project(Path(folder))
        script = target / "snapshots.py"
        text = script.read_text(encoding="utf-8")
        found = text.count(item.old)
        if found != 1:
            return f"its text stands {found} times in snapshots.py, not once"
        script.write_text(text.replace(item.old, item.new), encoding="utf-8")
        code, output = run_tests(target, item.tests)
    if code == 0:
        return "no test has noticed it"
    if code != 1:  # 1 is: tests ran, and some failed
        return f"the tests could not run (pytest's exit status {code}):\n{output[-2000:]}"
    return ""


def main(words: list[str]) -> int:
    wanted = [d for d in DAMAGES if not words or any(word in d.title for word in words)]
    if not wanted:
        print(f"no title holds any of: {' '.join(words)}")
        return 1
    every_test = tuple(dict.fromkeys(test for item in wanted for test in item.tests))
    with tempfile.TemporaryDirectory() as folder:
        code, output = run_tests(copy_of_the_project(Path(folder)), every_test)
    if code != 0:
        print(f"without any damage these tests must pass, and they do not:\n{output[-4000:]}")
        return 1
    alive = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for item, trouble in zip(wanted, pool.map(try_one, wanted)):
            print(f"{'ALIVE  ' if trouble else 'noticed'}  {item.title}", flush=True)
            if trouble:
                alive += 1
                print(f"         {trouble}", flush=True)
    print(f"{len(wanted) - alive} of {len(wanted)} damages were noticed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
