from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.full_disk import room_for
from voxspool.errors import MissingExtraError, StoreError
from voxspool.store.backends import DEAD_AFTER_S
from voxspool.store.segments import Store, StoredSegment, key_of

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = key_of("a sentence", "a voice")
FIELDS: dict[str, Any] = {
    "sample_rate": 24_000, "engine": "tone", "model": "tone", "voice": "a", "language": "en", "seed": 7, "tries": 1,
    "fault": "", "elapsed_s": 0.5, "level_dbfs": -20.0, "peak_dbfs": -3.0, "silent_share": 0.1, "worker": "w1",
}  # fmt: skip
SAMPLES = (8_000 * np.sin(np.arange(24_000) / 20)).astype(np.int16)
READ_ONLY = [*FIELDS, "key", "samples", "sha256", "flac_bytes"]


def keep(store: Store, pcm: np.ndarray = SAMPLES, key: str = KEY, **fields: object) -> StoredSegment:
    return store.write(pcm, key=key, **(FIELDS | fields))


def objects(folder: Path, key: str = KEY) -> tuple[Path, Path]:
    """Return a segment's two files."""
    (flac,) = (folder / key[:2]).glob(f"{key}.*.flac")
    return flac, folder / key[:2] / f"{key}.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "segments"


@pytest.fixture
def store(folder: Path) -> Store:
    return Store(folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's folder for a property's many examples."""
    return tmp_path_factory.mktemp("shared")


class TestASegment:
    @given(
        pcm=hnp.arrays(np.int16, st.integers(0, 5_000)),
        rate_hz=st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]),
        name=st.integers(0, 2**60),
    )
    @settings(max_examples=60)
    def test_comes_back_bit_for_bit(self, shared: Path, pcm: np.ndarray, rate_hz: int, name: int) -> None:
        store, key = Store(shared), key_of(name, rate_hz, pcm.tobytes().hex())
        stored = keep(store, pcm, key, sample_rate=rate_hz)
        assert stored == store.find(key) == store.check(key)
        assert (stored.samples, stored.sample_rate) == (len(pcm), rate_hz)
        np.testing.assert_array_equal(store.read(key), pcm)
        assert store.read(key).dtype == np.int16

    @pytest.mark.parametrize("samples", [0, 1, 600 * 24_000])
    def test_may_have_no_sample_one_or_ten_minutes(self, store: Store, samples: int) -> None:
        pcm = np.resize(SAMPLES, samples)
        keep(store, pcm)
        np.testing.assert_array_equal(store.read(KEY), pcm)

    def test_that_nobody_spoke_is_not_there(self, store: Store) -> None:
        assert store.find(KEY) is store.check(KEY) is None
        with pytest.raises(StoreError, match=f"{KEY} is missing"):
            store.read(KEY)

    def test_keeps_what_is_said_of_it(self, store: Store) -> None:
        stored = keep(store, fault="cap", tries=3, worker="wörker")
        assert (stored.fault, stored.tries, stored.worker, stored.key) == ("cap", 3, "wörker", KEY)
        assert store.find(KEY) == stored

    @pytest.mark.parametrize(("field", "value"), [("level_dbfs", float("nan")), ("tries", 1.5), ("voice", "\ud800")])
    def test_that_would_not_be_found_again_is_refused_at_once(self, store: Store, field: str, value: object) -> None:
        with pytest.raises(ValueError, match="would not be found again"):
            keep(store, **{field: value})
        assert store.find(KEY) is None

    @pytest.mark.parametrize(
        "key",
        ["", "../../etc/passwd", "ab/" + "0" * 37, "A" * 40, "0" * 39, "0" * 41, "0" * 40 + "\n", "\0" * 40, 5, None],
    )
    def test_has_a_key_that_can_be_no_path(self, store: Store, tmp_path: Path, key: str) -> None:
        for use in (store.find, store.check, store.read, lambda key: keep(store, key=key)):
            with pytest.raises(StoreError, match="not the key of a segment"):
                use(key)
        assert sorted(path.name for path in tmp_path.rglob("*.*")) == [".parts", "voxspool-store.json"]

    def test_is_kept_under_a_key_of_all_parts_in_their_order(self) -> None:
        keys = {key_of("a", "b"), key_of("b", "a"), key_of("ab"), key_of("a", "b", None), key_of(["a", "b"])}
        assert len(keys) == 5

    def test_of_years_ago_has_the_same_key_today(self) -> None:
        assert key_of("ä", 1.0, {"b": None}) == "2d65f64860856b1c34b686dc50959b56a74e7095"


class TestTwoWriters:
    def test_of_one_key_leave_the_first_ones_audio(self, store: Store) -> None:
        first = keep(store, worker="w1")
        second = keep(store, SAMPLES[:100], worker="w2")
        assert second == first
        np.testing.assert_array_equal(store.read(KEY), SAMPLES)

    def test_who_race_are_told_what_is_kept(self, folder: Path) -> None:
        barrier = threading.Barrier(8)

        def write(number: int) -> list[StoredSegment]:
            store, told = Store(folder), []
            for key in range(20):
                barrier.wait()
                told.append(keep(store, SAMPLES[: 1_000 + number], key_of(key), worker=f"w{number}"))
            return told

        with ThreadPoolExecutor(8) as threads:
            told = list(threads.map(write, range(8)))
        store = Store(folder)
        for key in range(20):
            (kept,) = {one[key] for one in told}
            assert store.find(key_of(key)) == kept
            assert len(store.read(key_of(key))) == 1_000 + int(kept.worker[1:])

    def test_who_make_a_store_at_once_agree_on_its_id(self, tmp_path: Path) -> None:
        barrier = threading.Barrier(8)

        def opened(_: int) -> list[str]:
            ids = []
            for place in range(20):
                barrier.wait()
                ids.append(Store(tmp_path / f"{place}").id)
            return ids

        with ThreadPoolExecutor(8) as threads:
            ids = list(threads.map(opened, range(8)))
        assert len({tuple(one) for one in ids}) == 1
        assert len(set(ids[0])) == 20

    def test_of_a_file_system_without_links_agree_as_well(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def link(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
        with ThreadPoolExecutor(4) as threads:
            stores = list(threads.map(lambda _: Store(folder), range(4)))
        assert len({store.id for store in stores}) == 1
        first = keep(stores[0])
        assert keep(stores[1], SAMPLES[:9], worker="w2") == first

    def test_of_a_place_that_creates_nothing_exclusively_agree_as_well(self) -> None:
        fsspec.register_implementation("plain", Plain, clobber=True)
        with ThreadPoolExecutor(4) as threads:
            stores = list(threads.map(lambda _: Store("plain://store"), range(4)))
        assert len({store.id for store in stores}) == 1
        first = keep(stores[0])
        assert keep(stores[1], SAMPLES[:9], worker="w2") == first


class Plain(MemoryFileSystem):
    """A place that knows nothing of exclusive creation, as older servers."""

    protocol = "plain"
    store: dict[str, Any] = {}  # noqa: RUF012 - fsspec's way

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        if mode == "create":
            raise NotImplementedError(mode)
        super().pipe_file(path, value)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_segments import KEY, SAMPLES, keep
from voxspool.store.segments import Store
import numpy as np, resource

folder, killed = sys.argv[1], 0
id = Store(folder).id
for step in range(-1, 100):
    key = f"{step + 1:040x}"
    pid = os.fork()
    if not pid:
        store, seen = Store(folder), [0]
        if step < 0:  # in the middle of the audio
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        def kill(event, arguments):
            if event in ("open", "os.mkdir", "os.rename", "os.link", "os.remove") and folder in str(arguments[0]):
                if seen[0] == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen[0] += 1
        sys.addaudithook(kill)
        keep(store, key=key)
        os._exit(0)
    ended = os.waitpid(pid, 0)[1]
    store = Store(folder)
    assert store.id == id
    if ended:
        assert os.WIFSIGNALED(ended), ended
        killed += 1
        found = store.find(key)
        assert found == store.check(key)
        assert found is None or (store.read(key) == SAMPLES).all()
        keep(store, key=key)
    assert (store.read(key) == SAMPLES).all()
    if not ended:
        break
print(killed)
"""


class TestAWriterThatDies:
    def test_at_any_step_leaves_all_or_nothing_and_another_writes_it_anew(self, folder: Path) -> None:
        ran = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent)],
            capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert 8 < int(ran.stdout) < 99

    def test_of_power_leaves_all_or_nothing_too_as_bytes_are_on_the_disk_before_names(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []
        fsync, link, replace = os.fsync, os.link, Path.replace

        def synced(handle: int) -> None:
            done.append("sync of names" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync of bytes")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "link", lambda *ends: (done.append("JSON"), link(*ends)))
        monkeypatch.setattr(Path, "replace", lambda *ends: (done.append("audio"), replace(*ends)))
        keep(store)
        assert done == [
            "sync of bytes", "sync of names", "audio", "sync of names", "sync of bytes", "JSON", "sync of names",
        ]  # fmt: skip

    def test_leaves_parts_that_are_removed_when_they_are_old(self, folder: Path) -> None:
        keep(Store(folder))
        old, fresh = folder / ".parts" / "1-old", folder / ".parts" / "2-fresh"
        for part in (old, fresh):
            part.write_bytes(b"half")
        long_ago = time.time() - DEAD_AFTER_S - 60
        os.utime(old, (long_ago, long_ago))
        store = Store(folder)
        assert [part.name for part in (folder / ".parts").iterdir()] == ["2-fresh"]
        np.testing.assert_array_equal(store.read(KEY), SAMPLES)


def modes(folder: Path) -> dict[str, int]:
    """Return the permissions of a folder and of all in it, by relative path."""
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


class TestPermissions:
    @pytest.fixture(autouse=True)
    def any_umask(self) -> Iterator[None]:
        before = os.umask(0)
        yield
        os.umask(before)

    def test_of_a_new_store_are_for_its_user_alone(self, tmp_path: Path) -> None:
        keep(Store(tmp_path / "cache" / "store"))
        found = modes(tmp_path / "cache")
        assert len(found) == 7, "two folders, that of parts and of the key, the store's name, and two objects"
        for name, mode in found.items():
            assert mode == (0o700 if (tmp_path / "cache" / name).is_dir() else 0o600), name

    @pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o770, 0o660), (0o755, 0o644), (0o700, 0o600)])
    def test_of_a_store_in_a_folder_that_people_made_are_those_of_the_folder(
        self, tmp_path: Path, folder_mode: int, file_mode: int
    ) -> None:
        tmp_path.chmod(folder_mode)
        keep(Store(tmp_path))
        for name, mode in modes(tmp_path).items():
            assert mode == (folder_mode if (tmp_path / name).is_dir() else file_mode), name


class TestDamage:
    @given(data=st.data())
    @settings(max_examples=80)
    def test_of_either_object_makes_the_segment_one_to_be_spoken_again(self, shared: Path, data: st.DataObject) -> None:
        store, key = Store(shared), key_of("damaged")
        whole = keep(store, key=key, worker="w1")
        path = objects(shared, key)[data.draw(st.integers(0, 1))]
        good = path.read_bytes()
        if data.draw(st.booleans()):
            bad = good[: data.draw(st.integers(0, len(good) - 1))]
        else:
            at = data.draw(st.integers(0, len(good) - 1))
            bad = good[:at] + bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))]) + good[at + 1 :]
        path.write_bytes(bad)
        if store.check(key) is None:
            with pytest.raises(StoreError, match="damaged; narrate again"):
                store.read(key)
        else:  # a digit of what was measured
            assert path.suffix == ".json"
            np.testing.assert_array_equal(store.read(key), SAMPLES)
        path.unlink()
        assert store.find(key) is store.check(key) is None
        assert keep(store, key=key, worker="w1") == whole
        assert store.check(key) == whole

    def test_of_a_record_that_states_more_bytes_than_its_samples_can_have_is_seen_before_the_audio_is_read(
        self, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep(store)
        _, record = objects(folder)
        record.write_text(json.dumps(json.loads(record.read_text()) | {"flac_bytes": 2**40}))
        monkeypatch.setattr(store._place, "size_bytes", lambda _: 2**40)
        assert store.find(KEY) is None
        assert store.check(KEY) is None

    def test_of_the_audio_by_a_long_silence_is_seen_without_keeping_it(self, store: Store) -> None:
        silence = np.zeros(900 * 24_000, np.int16)
        keep(store, silence)
        tracemalloc.start()
        try:
            assert store.check(KEY) is not None
            assert tracemalloc.get_traced_memory()[1] < silence.nbytes / 4
        finally:
            tracemalloc.stop()

    def test_of_the_audio_is_seen_by_a_check_and_mended_by_a_write(self, store: Store, folder: Path) -> None:
        keep(store)
        flac, _ = objects(folder)
        data = bytearray(flac.read_bytes())
        data[len(data) // 2] ^= 1
        flac.write_bytes(data)
        assert store.find(KEY) is not None
        assert store.check(KEY) is None
        keep(store)
        np.testing.assert_array_equal(store.read(KEY), SAMPLES)

    def test_is_mended_by_another_try_that_sounds_otherwise(self, store: Store, folder: Path) -> None:
        keep(store)
        objects(folder)[0].write_bytes(b"fLaC")
        assert store.find(KEY) is None
        mended = keep(store, SAMPLES[:500])
        assert mended.samples == 500
        np.testing.assert_array_equal(store.read(KEY), SAMPLES[:500])

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        ),
        st.sampled_from(READ_ONLY),
        st.sampled_from(["alone", "field", "bytes"]),
    )
    @settings(max_examples=200)
    def test_by_anybodys_json_is_a_missing_segment_at_worst(
        self, shared: Path, value: object, field: str, how: str
    ) -> None:
        store, key = Store(shared), key_of("anybody")
        keep(store, key=key)
        _, path = objects(shared, key)
        good = path.read_text()
        text = json.dumps(value if how == "alone" else json.loads(good) | {field: value})
        path.write_bytes(os.urandom(len(text)) if how == "bytes" else text.encode())
        try:
            found = store.find(key)
            assert found is None or found.key == key
            with contextlib.suppress(StoreError):
                store.read(key)
            store.check(key)
        finally:
            path.write_text(good)

    @pytest.mark.parametrize(
        "text",
        ["[" * 100_000, "9" * 5_000, '{"samples": ' + "9" * 5_000 + "}", "NaN", "\ufeff{}", '{"key": "\\ud800"}', ""],
    )
    def test_by_json_that_is_hard_to_read_is_a_missing_segment(self, store: Store, folder: Path, text: str) -> None:
        keep(store)
        objects(folder)[1].write_text(text)
        assert store.find(KEY) is store.check(KEY) is None

    @pytest.mark.parametrize(
        "lie", [{"samples": 10**15}, {"samples": 5}, {"samples": -1}, {"sample_rate": 8_000}, {"sample_rate": 0}]
    )
    def test_by_a_lie_about_the_audio_is_found_out(self, store: Store, folder: Path, lie: dict[str, int]) -> None:
        keep(store)
        _, path = objects(folder)
        path.write_text(json.dumps(json.loads(path.read_text()) | lie))
        assert store.check(KEY) is None
        with pytest.raises(StoreError):
            store.read(KEY)

    def test_by_another_segments_content_is_a_missing_segment(self, store: Store, folder: Path) -> None:
        keep(store)
        other = key_of("another")
        (folder / other[:2]).mkdir(exist_ok=True)
        shutil.copy(objects(folder)[1], folder / other[:2] / f"{other}.json")
        assert store.find(other) is None

    def test_a_field_of_a_newer_voxspool_is_passed_over(self, store: Store, folder: Path) -> None:
        stored = keep(store)
        _, path = objects(folder)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mood": "glad"}))
        assert store.check(KEY) == stored


class TestAStore:
    def test_is_the_same_however_it_is_named(
        self, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        names = [folder, str(folder), "segments", "./segments/", "~/segments", f"file://{folder}", f"FILE://{folder}"]
        stores = [Store(name) for name in names]
        monkeypatch.chdir("/")
        keep(store)
        for one in stores:
            assert one.id == store.id
            assert one.find(KEY) is not None

    def test_keeps_its_id(self, folder: Path) -> None:
        assert len(Store(folder).id) == 32
        assert Store(folder).id == Store(folder).id
        assert Store(folder).id != Store(folder.with_name("another")).id

    def test_may_be_shared_by_threads(self, store: Store) -> None:
        def use(number: int) -> bool:
            pcm = np.roll(SAMPLES, number)
            keep(store, pcm, key_of(number))
            return bool((store.read(key_of(number)) == pcm).all())

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(use, range(64)))

    def test_of_a_later_version_is_refused(self, store: Store, folder: Path) -> None:
        (folder / "voxspool-store.json").write_text(json.dumps({"id": store.id, "version": 2}))
        with pytest.raises(StoreError, match=r"is of version 2, and this voxspool knows 1; install a newer voxspool"):
            Store(folder)

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"id": 5, "version": 1}', '{"id": "../..", "version": 1}'])
    def test_whose_name_is_damaged_says_so_and_is_there_again_without_it(self, folder: Path, text: str) -> None:
        keep(Store(folder))
        (folder / "voxspool-store.json").write_text(text)
        with pytest.raises(StoreError, match=r"voxspool-store.json in the segment store .* is damaged; remove it"):
            Store(folder)
        (folder / "voxspool-store.json").unlink()
        np.testing.assert_array_equal(Store(folder).read(KEY), SAMPLES)

    def test_that_vanished_lacks_nothing_it_is_gone(self, store: Store, folder: Path) -> None:
        keep(store)
        folder.rename(folder.with_name("unmounted"))
        vanished(store)
        folder.mkdir()  # the mount point, bare
        vanished(store)
        assert list(folder.iterdir()) == []
        Store(folder)  # another disk
        vanished(store)

    def test_that_is_a_file_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match=r"the segment store /.*/file cannot be read: Not a directory"):
            Store(tmp_path / "file")

    def test_on_a_full_disk_says_so_and_keeps_what_it_has(self, store: Store, folder: Path) -> None:
        keep(store)
        with room_for(1_000), pytest.raises(StoreError, match=rf"{folder} cannot be written to: .*; make room there"):
            keep(store, key=key_of("another"))
        assert store.find(key_of("another")) is None
        assert list((folder / ".parts").iterdir()) == []
        np.testing.assert_array_equal(store.read(KEY), SAMPLES)

    def test_that_may_not_be_written_to_can_be_read(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)  # for others to read; one that the store makes is for its user alone
        store = Store(folder)
        keep(store)
        with as_nobody(folder):
            assert Store(folder).id == store.id
            np.testing.assert_array_equal(store.read(KEY), SAMPLES)
            with pytest.raises(
                StoreError, match="cannot be written to: Permission denied; give this user the right to"
            ):
                keep(store, key=key_of("another"))

    def test_that_may_not_be_opened_says_so(self, folder: Path) -> None:
        Store(folder)
        with as_nobody(folder, 0o700 if os.geteuid() == 0 else 0), pytest.raises(StoreError, match="Permission denied"):
            Store(folder)


def vanished(store: Store) -> None:
    """A store whose disk is gone is asked for one segment that it had, one that it had not, and to take one."""
    for use in (
        lambda: store.find(KEY),
        lambda: store.check(key_of("another")),
        lambda: keep(store, key=key_of("new")),
    ):
        with pytest.raises(StoreError, match="is gone, or another; see that its disk is there"):
            use()


@contextlib.contextmanager
def as_nobody(folder: Path, mode: int = 0o555) -> Iterator[None]:
    """Nobody but root is refused nothing: root becomes nobody."""
    root = os.geteuid() == 0
    for path in [folder, *folder.rglob("*/")]:
        path.chmod(mode)
    open_to_all = [path for path in folder.parents if root and not path.stat().st_mode & 0o001]
    for path in open_to_all:
        path.chmod(path.stat().st_mode | 0o011)
    try:
        if root:
            os.seteuid(65_534)
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*/")]:
            path.chmod(0o755)


class TestAPlace:
    def test_in_memory_is_a_store(self) -> None:
        store = Store("memory://of/test")
        assert store.find(KEY) is None
        stored = keep(store)
        again = Store("memory://of/test")
        assert (again.id, again.check(KEY)) == (store.id, stored)
        np.testing.assert_array_equal(again.read(KEY), SAMPLES)

    def test_whose_name_is_being_written_is_looked_at_again(self, tmp_path: Path) -> None:
        name, whole = tmp_path / "voxspool-store.json", json.dumps({"id": "0" * 32, "version": 1})
        name.write_text("")
        with ThreadPoolExecutor(1) as threads:
            opening = threads.submit(Store, f"local://{tmp_path}")
            name.write_text(whole)
            assert opening.result().id == "0" * 32

    def test_that_loses_what_it_is_given_is_no_store(self) -> None:
        class Leaky(MemoryFileSystem):
            protocol = "leaky"

            def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None: ...

        fsspec.register_implementation("leaky", Leaky, clobber=True)
        with pytest.raises(StoreError, match="leaky://x does not keep what is written"):
            Store("leaky://x")

    @pytest.mark.parametrize(
        ("place", "said"),
        [
            ("s4://bucket/x", r"s4://bucket/x cannot be a segment store: unknown store scheme s4:// \(there is: "),
            ("memroy://x", r"unknown store scheme memroy:// \(did you mean memory\?\)"),
            ("s3:/bucket/x", r"s3:/bucket/x is neither a folder nor one URL; write it like s3://bucket/prefix"),
            ("simplecache::s3://b/x", "neither a folder nor one URL"),
            ("s3::memory://x", "neither a folder nor one URL"),
            ("://x", "neither a folder nor one URL"),
            ("file://host/folder", "is on another machine; write file:///FOLDER"),
            ("~nobody-of-this-name/x", "is in nobody's home"),
        ],
    )
    def test_that_cannot_be_is_refused_with_what_to_write(self, place: str, said: str) -> None:
        with pytest.raises(StoreError, match=said):
            Store(place)

    def test_without_fsspec_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "fsspec", None)
        with pytest.raises(MissingExtraError, match=r"s3://bucket/x needs fsspec; .* pip install .*\[store\]'$"):
            Store("s3://bucket/x")

    def test_without_its_own_library_names_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(MissingExtraError, match=r"gs://bucket/x needs gcsfs; .* pip install gcsfs$"):
            Store("gs://bucket/x")

    @pytest.mark.parametrize("url", ["secretive://me:pa%40ss@host/x?token=pa%40ss", "secretive://a@me:pa%40ss@host/x"])
    def test_shows_no_secret_of_its_url(self, url: str, caplog: pytest.LogCaptureFixture) -> None:
        class Secretive(MemoryFileSystem):
            protocol = "secretive"

            def cat_file(self, *_: object, **__: object) -> bytes:
                raise RuntimeError(f"{url} said no to pa@ss,\n pa%40ss")

        fsspec.register_implementation("secretive", Secretive, clobber=True)
        with pytest.raises(StoreError, match=r"cannot be read: .* said no") as caught:
            Store(url)
        assert "ss@" not in str(caught.value).replace("***@", "")
        for secret in ("pa%40ss", "pa@ss"):
            assert secret not in str(caught.value) + caplog.text
        assert caught.value.__cause__ is None

    def test_is_shown_in_the_repr_without_its_secrets(self) -> None:
        assert repr(Store("memory://me:secret@x?key=secret&a=b")) == "Store('memory://me:***@x?key=***&a=***')"

    def test_needs_no_fsspec_where_it_is_a_folder(self, tmp_path: Path) -> None:
        program = (
            "import sys; from voxspool.store.segments import Store; Store(sys.argv[1]); print('fsspec' in sys.modules)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
        )
        assert ran.stdout == "False\n"
