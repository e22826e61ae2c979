"""A large annotation file is read once: afterwards its index is mapped, and means the same."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from tests.coco.test_columns import shown

from rankdet.coco import index as index_module
from rankdet.coco.index import Index, Mapped, folder
from rankdet.data import CocoDataset
from rankdet.data.layouts import find_layout
from rankdet.data.layouts import source as source_module
from rankdet.data.long_tail import make_long_tailed_shapes
from rankdet.data.sampling import SampleKey
from rankdet.data.shapes import make_shapes
from rankdet.recipes.doctor import check_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=4, val=1, size=64)


@pytest.fixture
def data(made, tmp_path, monkeypatch):
    """A data folder whose annotations are large, and an empty folder for indexes."""
    monkeypatch.setattr(index_module, "SMALLEST", 1)
    monkeypatch.setenv("RANKDET_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def parsed(monkeypatch):
    """The annotation files that are read, as opposed to their indexes."""
    read, paths = source_module.read_document, []
    monkeypatch.setattr(source_module, "read_document", lambda path: paths.append(path) or read(path))
    return paths


def read(data: Path, masks: bool = True):
    return find_layout(data).source("train").read(masks)


def content(truth) -> str:
    return repr([(name, shown(value)) for name, value in sorted(vars(truth).items()) if name != "mapped"])


def change(data: Path, edit) -> None:
    path = find_layout(data).source("train").annotations
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("masks", [False, True])
def test_an_index_means_what_its_file_means(data, parsed, monkeypatch, masks):
    def edit(document):
        document["annotations"][0]["bbox"] = [1, 2, 3]
        document["annotations"][1]["id"] = "1000"
        document["images"].append({"id": 99, "file_name": "../out.png", "width": 5, "height": 5})

    change(data, edit)
    first, again = read(data, masks), read(data, masks)
    assert len(parsed) == 1
    monkeypatch.setattr(index_module, "SMALLEST", 1 << 30)
    truth, findings = read(data, masks)
    assert truth.mapped is None
    for one in (first, again):
        assert content(one[0]) == content(truth)
        assert one[1] == findings
        assert one[0].mapped is not None


def test_doctor_reads_a_large_file_once_and_looks_for_masks_where_there_are_any(data, parsed):
    change(data, lambda document: [row.pop("segmentation") for row in document["annotations"]])
    check_folder(data)
    train, val = (find_layout(data).source(split).annotations for split in ("train", "val"))
    assert (parsed.count(train), parsed.count(val)) == (1, 2)


def test_an_index_has_the_rules_of_lvis(tmp_path, data, parsed):
    root = make_long_tailed_shapes(tmp_path / "lvis", train=4, val=1, size=64)
    first, again = read(root)[0].federation, read(root)[0].federation
    assert len(parsed) == 1
    assert again.frequencies.tolist() == first.frequencies.tolist()
    assert [again.lists_of(image) for image in range(4)] == [first.lists_of(image) for image in range(4)]


def test_samples_from_an_index_are_those_from_its_file(data, monkeypatch):
    source = find_layout(data).source("train")
    by_index = CocoDataset(source.annotations, source.images, with_masks=True)
    monkeypatch.setattr(index_module, "SMALLEST", 1 << 30)
    from_file = CocoDataset(source.annotations, source.images, with_masks=True)
    sent = pickle.dumps(by_index)
    for dataset in (by_index, pickle.loads(sent)):
        assert dataset.ground_truth.mapped is not None
        for index in range(len(from_file)):
            one, other = dataset[SampleKey(index, 5)], from_file[SampleKey(index, 5)]
            assert (one.image == other.image).all()
            assert (one.target.boxes == other.target.boxes).all()
            assert (one.target.masks == other.target.masks).all()


def test_a_process_that_is_sent_a_data_set_maps_what_another_has_mapped(data):
    truth, _ = read(data)
    few = pickle.dumps(truth)
    assert b"segmentations buffer" not in few
    assert len(few) < truth.segmentations.buffer.nbytes
    changed = truth.subset([2, 0])
    assert content(pickle.loads(pickle.dumps(changed))) == content(changed)
    assert content(pickle.loads(few)) == content(truth)
    read_again = Index(find_layout(data).source("train").annotations, {})
    assert read_again.load() is None  # read in another way
    os.utime(truth.mapped.path, ns=(1, 1))
    with pytest.raises(ValueError, match=r"\.index: has been made anew; start again"):
        pickle.loads(few)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda content: content[:-1], "is cut off"),
        (lambda content: b"x" + content[1:], "is none"),
        (lambda content: b"", "is none"),
        (lambda content: content[:60], "Unterminated string"),
    ],
)
def test_an_index_that_is_broken_is_made_anew_with_one_note(data, parsed, broken, words):
    truth, findings = read(data)
    path = truth.mapped.path
    whole = path.read_bytes()
    path.unlink()  # what is mapped stays as it is
    path.write_bytes(broken(whole))
    again, said = read(data)
    assert content(again) == content(truth)
    assert [one for one in said if one not in findings] == [said[-1]]
    assert said[-1].severity == "note"
    assert f"its index {words}" in said[-1].problem
    assert said[-1].problem.endswith(": it is made anew")
    assert read(data)[1] == findings
    assert len(parsed) == 2


def test_an_index_of_another_content_or_version_is_made_anew(data, monkeypatch):
    truth, _ = read(data)
    change(data, lambda document: document["annotations"].pop())
    again, said = read(data)
    assert len(again.labels) == len(truth.labels) - 1
    assert said[-1].problem == "its index is of another content of the file: it is made anew"
    monkeypatch.setattr(index_module, "_reader", lambda: "another")
    assert read(data)[1][-1].problem == "its index is of another version: it is made anew"


def test_a_file_of_the_same_content_keeps_its_index(data, parsed):
    read(data)
    path = parsed[0]
    os.utime(path, ns=(1, 1))
    assert read(data)[0].mapped is not None
    assert len(parsed) == 1
    text = path.read_text()
    path.write_text(text.replace('"id": 1', '"id": 7', 1))
    read(data)
    assert len(parsed) == 2


def test_names_that_image_files_complete_are_read_anew_each_time(data, parsed):
    change(data, lambda document: [row.update(file_name=f"other/{row['file_name']}") for row in document["images"]])
    for _ in range(2):
        assert read(data)[0].mapped is None
    assert len(parsed) == 2


def test_an_index_does_not_count_once_image_files_have_other_names(data, parsed):
    source = find_layout(data).source("train")
    truth, _ = read(data)
    for path in [source.images / name for name in truth.file_names.texts()]:
        path.rename(path.with_suffix(".PNG"))
    again, findings = source.read(True)
    assert len(parsed) == 2
    assert [one.problem for one in findings] == ["file_name is written in another way"] * 4
    assert again.file_names.texts() == [name.replace(".png", ".PNG") for name in truth.file_names.texts()]


def test_where_no_index_can_be_written_the_file_is_read_with_one_note(data, monkeypatch):
    (data / "file").write_text("")
    monkeypatch.setenv("RANKDET_CACHE", str(data / "file" / "cache"))
    truth, findings = read(data)
    assert truth.mapped is None
    assert [one.problem for one in findings] == ["its index cannot be kept: it is read anew each time"]
    assert "RANKDET_CACHE" in findings[0].remedy


def test_a_file_that_changes_while_it_is_read_gets_no_index(data, monkeypatch):
    check = source_module.Source.check

    def disturbed(self, *arguments):
        os.utime(self.annotations, ns=(1, 1))
        return check(self, *arguments)

    monkeypatch.setattr(source_module.Source, "check", disturbed)
    truth, findings = read(data)
    assert truth.mapped is None
    assert findings[-1].detail == "has changed while it was read"
    assert not list(folder().glob("*.index"))


def test_indexes_are_kept_in_the_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("RANKDET_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "rankdet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".cache" / "rankdet"


def test_nothing_is_left_over_where_an_index_cannot_be_finished(data, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_module.os, "fsync", fail)
    assert "No space left" in read(data)[1][-1].detail
    assert [path.name for path in folder().iterdir()] == [".lock"]


def test_memory_that_is_forgotten_comes_back(data):
    truth, _ = read(data)
    before = content(truth)
    truth.mapped.forget()
    assert content(truth) == before
    assert isinstance(truth.mapped, Mapped)
