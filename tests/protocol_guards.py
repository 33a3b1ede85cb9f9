"""The guards of the protocol, each with the text that takes it out of the source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """One guard.

    Attributes:
        name: What is missing without it.
        module: Where it stands.
        guard: Its text; must be there exactly once.
        without: What stands there without it.
        simulated: Whether the simulation alone must notice.
        seed: The first history to play; near one that is known to notice.
        equivalent: Why nothing can notice, where that is so.
    """

    name: str
    module: str
    guard: str
    without: str
    simulated: bool = True
    seed: int = 0
    equivalent: str = ""

    def taken_out(self, source: str) -> str:
        """Return a module's source without the guard.

        Raises:
            ValueError: The source was changed, so that the guard is not where it was.
        """
        if source.count(self.guard) != 1:
            raise ValueError(
                f"{self.module} holds the guard {self.name!r} {source.count(self.guard)} times: look again"
            )
        return source.replace(self.guard, self.without)


_PUBLISHING, _PARTS, _SEAL = "batchrec.storage.publishing", "batchrec.output.parts", "batchrec.output.seal"
_CLAIMS, _LEDGER, _COORDINATOR = "batchrec.engine.claims", "batchrec.engine.ledger", "batchrec.engine.coordinator"
_BUDGET, _DRIVERS = "batchrec.engine.budget", "batchrec.engine.drivers"
_JOB, _WORKER = "batchrec.job", "batchrec.engine.worker"
_LOCAL, _S3 = "batchrec.storage.local_store", "batchrec.storage.s3_store"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "read-back: any unclear answer means that our put is there",
        _PUBLISHING,
        "            if (found := _look_twice(find, clear, pause)) is not None:\n                return found\n",
        "            return None\n",
    ),
    Guard(
        "409 branch: a conflict is an object that stands, and is not looked at",
        _PUBLISHING,
        "        except (KeyExists, Uncertain):\n            if (found",
        "        except KeyExists:\n            return None\n        except Uncertain:\n            if (found",
    ),
    Guard(
        "lost answer: taken for a yes",
        _PUBLISHING,
        "        except (KeyExists, Uncertain):\n            if (found",
        "        except Uncertain:\n            return None\n        except KeyExists:\n            if (found",
        seed=165,
    ),
    Guard(
        "fingerprint: another value that stands is not refused",
        _PUBLISHING,
        "if found is False:",
        "if False:",
        simulated=False,
    ),
    Guard(
        "fingerprint: another value that stands counts as the same",
        _PUBLISHING,
        "return standing == data or same(standing)",
        "return True",
        seed=1130,
    ),
    Guard(
        "a put is made once only",
        _PUBLISHING,
        "    for tried in range(MAX_PUTS):",
        "    for tried in range(1):",
        simulated=False,
    ),
    Guard(
        "an object that cannot be read is believed at the first look",
        _PUBLISHING,
        "    if found is not None and clear(found):",
        "    if found is not None:",
        simulated=False,
    ),
    Guard(
        "identity: a part of another job counts as ours",
        _PARTS,
        "(standing.job_id, standing.shard) == (mine.job_id, mine.shard)",
        "standing.shard == mine.shard",
    ),
    Guard(
        "footer: what is no part counts as ours",
        _PARTS,
        "    if isinstance(standing, PartFooter) and (",
        "    if isinstance(standing, UnreadablePart):\n        return mine\n    if isinstance(standing, PartFooter) and (",  # noqa: E501
    ),
    Guard(
        "seal: a part of another job is sealed",
        _SEAL,
        "    if (footer.job_id, footer.shard) != (layout.job_id, shard.index):",
        "    if False:",
        seed=60,
    ),
    Guard(
        "seal: a part with other rows than planned is sealed",
        _SEAL,
        "    if footer.num_rows != shard.num_rows or",
        "    if False and footer.num_rows != shard.num_rows or False and",
        seed=110,
    ),
    Guard(
        "seal: parts that are missing are not asked for", _SEAL, "    if missing:\n", "    if False:\n", simulated=False
    ),
    Guard(
        "seal: nothing is listed again",
        _SEAL,
        "    standing = standing_parts(store, layout, len(plan))\n    missing",
        "    standing = {shard.index: 0 for shard in plan}\n    missing",
        simulated=False,
    ),
    Guard(
        "seal: nothing is read again",
        _SEAL,
        "        footer, size = read_footer_and_size(store, key)\n",
        "        return SealedPart(shard.index, 0, '', shard.num_rows, shard.num_rows, {}, '')\n",
    ),
    Guard(
        "seal order: _SUCCESS before the seal",
        _SEAL,
        "        _create_json(store, layout.seal_key, sealed.to_json())\n",
        "        _create_json(store, SUCCESS_KEY, sealed.totals())\n"
        "        _create_json(store, layout.seal_key, sealed.to_json())\n",
    ),
    Guard(
        "seal order: _SUCCESS before the errors",
        _SEAL,
        "        _create_errors(store, layout, sealed, plan, manifest_files)\n",
        "        _create_json(store, SUCCESS_KEY, sealed.totals())\n"
        "        _create_errors(store, layout, sealed, plan, manifest_files)\n",
    ),
    Guard(
        "seal: written over what stands",
        _SEAL,
        "    data = json.dumps(value).encode()",
        "    data = json.dumps(value).encode()\n    return store.overwrite(key, data)",
    ),
    Guard(
        "seal: another one that stands counts as the same",
        _SEAL,
        "            return bool(parse_json(standing) == parse_json(data))\n",
        "            return True\n",
        simulated=False,
    ),
    Guard(
        "seal: a part taken away meanwhile ends in a traceback",
        _SEAL,
        "    except KeyMissing as error:\n        raise StorageLost(\n",
        "    except ZeroDivisionError as error:\n        raise StorageLost(\n",
        simulated=False,
    ),
    Guard(
        "claim: nobody looks whether the driver before lives",
        _CLAIMS,
        "            asks = last and not (takeover and looked == 0)",
        "            asks = False",
    ),
    Guard(
        "claim: whoever lost one takes the next without looking",
        _CLAIMS,
        "            asks = last and not (takeover and looked == 0)",
        "            asks = last and not takeover and looked == 0",
        seed=260,
    ),
    Guard(
        "claim: n+2 where n+1 is taken",
        _CLAIMS,
        "            if _try_claim(store, layout, last + 1, me):\n"
        "                return Claim(store, layout, last + 1, me)\n",
        "            for number in (last + 1, last + 2):\n                if _try_claim(store, layout, number, me):\n"
        "                    return Claim(store, layout, number, me)\n",
        seed=85,
    ),
    Guard(
        "claim: the nonce is not compared",
        _CLAIMS,
        "        return _read_driver(store, claim_key(layout, number)) == driver",
        "        return _read_driver(store, claim_key(layout, number)) is not None",
    ),
    Guard("claim: nobody waits for a sign of life", _CLAIMS, "        sleep(patience_s)\n", ""),
    Guard(
        "claim: what another says is a sign of life",
        _CLAIMS,
        "        return not (self.nonce and driver.nonce) or self.nonce == driver.nonce",
        "        return True",
        simulated=False,
    ),
    Guard(
        "claim: nobody looks whether another has the number by now",
        _CLAIMS,
        " or not _holds(store, layout, number, other):",
        ":",
        simulated=False,
    ),
    Guard(
        "claim: another's of the same number is taken for one's own",
        _CLAIMS,
        " or (highest == self.number and self._is_anothers())",
        "",
        simulated=False,
    ),
    Guard(
        "claim: who lost it goes on beating",
        _CLAIMS,
        "        if self._gone:\n            return  #",
        "        if False:\n            return  #",
        simulated=False,
    ),
    Guard(
        "claim: one's own that lands late is taken for another's",
        _CLAIMS,
        "            if looked and _holds(store, layout, last, me):",
        "            if False:",
        simulated=False,
    ),
    Guard(
        "claim: a sign of life is not heeded",
        _CLAIMS,
        "and not heard.ended and heard != before:",
        "and not heard.ended and heard is None:",
        seed=135,
    ),
    Guard(
        "claim: a living process of this machine is passed",
        _CLAIMS,
        '        raise _run_already(f"{who} is alive")\n',
        "        return True\n",
    ),
    Guard(
        "claim: a number used again is mistaken for the process that had it",
        _DRIVERS,
        "            return _pid_started(self.pid) != self.pid_started",
        "            return _pid_started(self.pid) is None",
        simulated=False,
    ),
    Guard(
        "claim: who beats does not look whether it was superseded",
        _CLAIMS,
        "            with suppress(BatchrecError, KeyMissing):\n                self.look()\n",
        "",
        seed=155,
    ),
    Guard(
        "coordinator: one that was superseded goes on",
        _COORDINATOR,
        "        if (number := self._superseded_by()) is not None:",
        "        if (number := self._superseded_by()) is not None and False:",
        seed=155,
    ),
    Guard(
        "ledger: duplicates count again",
        _LEDGER,
        "        attempt = self._take_back(attempt_id)\n        if attempt is None:\n            return False\n",
        "        attempt = self._take_back(attempt_id)\n        if attempt is None:\n            return True\n",
    ),
    Guard(
        "coordinator: stale and duplicate answers count",
        _COORDINATOR,
        "        if not self._ledger.publish(event.attempt.attempt_id):\n            return\n",
        "        self._ledger.publish(event.attempt.attempt_id)\n",
    ),
    Guard(
        "ledger: a stale failure gives its shard back",
        _LEDGER,
        "        attempt = self._take_back(attempt_id)\n        if attempt is None:\n            return None\n",
        "        attempt = self._take_back(attempt_id)\n        if attempt is None:\n"
        '            index = int(attempt_id.split("-")[1])\n            self._pending.append(index)\n'
        "            return None\n",
    ),
    Guard(
        "ledger: no cap",
        _LEDGER,
        "ShardState.ABANDONED if counts[index] >= cap else ShardState.PENDING",
        "ShardState.PENDING",
    ),
    Guard(
        "ledger: given up at the first failure",
        _LEDGER,
        "ShardState.ABANDONED if counts[index] >= cap else ShardState.PENDING",
        "ShardState.ABANDONED",
    ),
    Guard(
        "ledger: a suspect gets company",
        _LEDGER,
        "        if any(self._num_lost[attempt.shard.index] for attempt in held):\n            return None\n",
        "",
    ),
    Guard(
        "ledger: a suspect joins others",
        _LEDGER,
        "        if self._suspects and not held:",
        "        if self._suspects:",
    ),
    Guard(
        "ledger: a loss with its machine counts",
        _LEDGER,
        "        if with_node:\n            return",
        "        if False:\n            return",
        simulated=False,
    ),
    Guard(
        "coordinator: rows that may still be had are given up",
        _COORDINATOR,
        "        if isinstance(error, Resumable):\n            self._unfinished",
        "        if False:\n            self._unfinished",
        seed=70,
    ),
    Guard(
        "job: what stands is not listed, all is done again",
        _JOB,
        "    done = standing_parts(store, layout, len(job.plan))\n",
        "    done: dict[int, int] = {}\n",
    ),
    Guard(
        "job: whoever takes over believes that all was done",
        _JOB,
        "    done = standing_parts(store, layout, len(job.plan))\n",
        "    done = range(len(job.plan)) if held.number > 1 else standing_parts(store, layout, len(job.plan))\n",
    ),
    Guard(
        "job: sealed without asking whose the folder is",
        _JOB,
        "        job = _bind(store, layout, job)  # not into",
        "        # not into",
        simulated=False,
    ),
    Guard(
        "plan: today's boundaries instead of those that stand",
        "batchrec.planning",
        "    return standing\n",
        "    return wanted\n",
    ),
    Guard(
        "plan: one of other files is taken, as it has as many rows",
        "batchrec.planning",
        "    if not standing.cuts_rows_of(wanted):\n",
        "    if standing.num_rows != wanted.num_rows:\n",
        simulated=False,
    ),
    Guard(
        "spec: whatever stands defines the job",
        "batchrec.engine.definition",
        "    if identity_in(record, layout.job_id) is None:\n",
        "    if False:\n",
        simulated=False,
    ),
    Guard(
        "worker: an attempt that repeats another does not look first",
        _WORKER,
        "        if attempt.number > 1:\n",
        "        if False:\n",
        simulated=False,
    ),
    Guard(
        "worker: a part of another job counts as its own",
        _PARTS,
        "    return found if (found.job_id, found.shard) == (job_id, shard) else None\n",
        "    return found\n",
        simulated=False,
    ),
    Guard(
        "identity: another job's folder is not refused",
        "batchrec.engine.identity",
        '    if standing["job_id"] == wanted["job_id"]:\n        return\n',
        "    return\n",
    ),
    Guard(
        "coordinator: rows without access that were published do not count",
        _COORDINATOR,
        "            self._access_window.published(event.result.stats)\n",
        "",
        simulated=False,
    ),
    Guard(
        "budget: an attempt that lost its access does not count",
        _BUDGET,
        "        self._take(_Ended(num_rows, num_rows, error.cause, error.advice))\n",
        "",
        simulated=False,
    ),
    Guard(
        "coordinator: one that fails fast is not judged",
        _COORDINATOR,
        "            self._failure_budget.judge(self.counts, {})\n",
        "",
        simulated=False,
    ),
    Guard("worker: a shard without access is published", _WORKER, "            refuse_systemic(predictions)\n", ""),
    Guard(
        "job: the store is not probed",
        _JOB,
        "    probe(store)\n",
        "",
        simulated=False,
    ),
    Guard(
        "local: put whatever stands there",
        _LOCAL,
        "                os.link(staged, target)\n",
        "                staged.replace(target)\n",
        simulated=False,
    ),
    Guard(
        "local: bytes are not synced",
        _LOCAL,
        "        os.fsync(descriptor)\n    finally:\n        os.close(descriptor)\n\n\ndef _make",
        "        pass\n    finally:\n        os.close(descriptor)\n\n\ndef _make",
        simulated=False,
    ),
    Guard(
        "local: the folder is not synced",
        _LOCAL,
        "            try:\n                _sync_folder(target.parent)\n            except OSError",
        "            try:\n                pass\n            except OSError",
        simulated=False,
    ),
    Guard(
        "local: a key that exists is told before its folder is synced",
        _LOCAL,
        "                _sync_folder(target.parent)\n                raise KeyExists",
        "                raise KeyExists",
        simulated=False,
    ),
    Guard("S3: put whatever stands there", _S3, 'mode="create", ', "", simulated=False),
    Guard(
        "S3: any failure of a put is taken for an object that stands",
        _S3,
        '            raise Uncertain(f"{key}: {found.detail}") from error',
        "            return",
        simulated=False,
    ),
    Guard(
        "S3: a 409 is told as unclear rather than as an object that stands",
        _S3,
        "found.trouble in (Trouble.EXISTS, Trouble.CHANGED)",
        "found.trouble is Trouble.CHANGED",
        simulated=False,
        equivalent="both are settled by the same read-back",
    ),
)
