"""Text is text: nothing that a writer types, and no state of a tokenizer file, becomes a special token or cuts a text."""

import io
import json

import pytest
import sentencepiece

from cola_jax.data import lossy_tokenizers, tokenizers
from cola_jax.data.errors import DataError
from cola_jax.data.sentencepieces import SentencePieceTokenizer

SPECIAL = ("<pad>", "</s>", "<s>", "<mask>")
SPELLED = [f"write {token} to strike, {token}{token}" for token in SPECIAL] + ["</s>", "<pad>", "a<mask> b"]
LETTERS = "abcdefghijklmnopqrstuvwxyz<>/, "


def added(content, index, special=True, **fields):
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return usual | {"id": index, "content": content, "special": special} | fields


def bpe(**fields):
    """Byte-level BPE whose merges can spell </s>, as those of models that were trained on markup."""
    hf = pytest.importorskip("tokenizers")
    words = [*SPECIAL, *sorted(hf.pre_tokenizers.ByteLevel.alphabet()), "</", "s>"]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {word: i for i, word in enumerate(words)},
        "merges": [["<", "/"], ["s", ">"], ["</", "s>"]],
    } | fields  # fmt: skip
    return {"pre_tokenizer": {**level, "use_regex": False}, "decoder": level, "model": model}


def unigram(**fields):
    pieces = [
        ["<unk>", 0.0],
        *[[token, 0.0] for token in SPECIAL],
        *[[c, -3.0] for c in LETTERS if c != " "],
        ["▁", -2.0],
    ]
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False} | fields
    return {"pre_tokenizer": space, "decoder": space, "model": model}


def word_level(**fields):
    words = ["<unk>", *SPECIAL, "write", "to", "strike", "strike,", "a"]
    model = {"type": "WordLevel", "unk_token": "<unk>", "vocab": {word: i for i, word in enumerate(words)}} | fields
    return {"pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None, "model": model}


MODELS = {"bpe": bpe, "unigram": unigram, "word_level": word_level}


def file_of(tmp_path, tree, special=True, **fields):
    vocabulary = tree["model"]["vocab"]
    names = list(vocabulary) if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    tokens = [added(token, names.index(token), special) for token in SPECIAL]
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": None,
        "post_processor": None,
    } | tree | fields  # fmt: skip
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(whole))
    return path


def loaded(tmp_path, tree, **fields):
    pytest.importorskip("tokenizers")
    return tokenizers.from_file(file_of(tmp_path, tree, **fields), "<pad>", "</s>")


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_text_that_spells_a_special_token_comes_back_and_has_no_special_id(tmp_path, kind, special):
    tokenizer = loaded(tmp_path, MODELS[kind](), special=special)
    for text in SPELLED:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {tokenizer.pad_id, tokenizer.eos_id} & set(ids) and not tokenizer.lost(text)
        assert special is False or min(ids) > 3, "no special token at all"


def test_a_special_token_that_is_in_the_vocabulary_alone_is_not_spelled_either(tmp_path):
    for kind in ("bpe", "unigram"):
        tokenizer = loaded(tmp_path, MODELS[kind](), added_tokens=[])
        ids = tokenizer.encode("write </s> to <pad>")
        assert not {tokenizer.pad_id, tokenizer.eos_id} & set(ids) and tokenizer.decode(ids) == "write </s> to <pad>"


def test_a_word_list_reads_a_spelled_special_token_as_an_unknown_word(tmp_path):
    tokenizer = loaded(tmp_path, word_level())
    assert tokenizer.encode("write </s> to") == [5, 0, 6] and tokenizer.lost("write </s> to") == "</s>"
    assert (tokenizer.pad_id, tokenizer.eos_id) == (1, 2), "ids are those of the file"


def test_a_word_list_that_raises_for_unknown_words_loses_nothing_of_those_it_knows(tmp_path):
    tokenizer = loaded(tmp_path, word_level(unk_token="<gone>"))
    assert tokenizer.lost("write to") == "" and not tokenizer.drops("write to", tokenizer.encode("write to"))
    assert tokenizer.lost("write it") == "write it"
    with pytest.raises(DataError, match="cannot encode 'write it'"):
        tokenizer.encode("write it")


def test_special_ids_and_fingerprints_are_those_of_the_file(tmp_path):
    hf = pytest.importorskip("tokenizers")
    tokenizer = loaded(tmp_path, bpe())
    inner = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert (tokenizer.pad_id, tokenizer.eos_id) == tuple(map(inner.token_to_id, SPECIAL[:2]))
    assert tokenizer.vocab_size == inner.get_vocab_size() and tokenizer.special_names == SPECIAL[:2]
    assert tokenizer.model == (tmp_path / "tokenizer.json").read_bytes()
    text = "an ordinary text, the same ids as ever"
    assert tokenizer.encode(text) == inner.encode(text, add_special_tokens=False).ids


def test_truncation_padding_and_dropout_of_the_file_do_not_change_a_text(tmp_path):
    plain = loaded(tmp_path, bpe())
    state = {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 48}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<pad>"},
    }  # fmt: skip
    stateful = loaded(tmp_path, bpe(dropout=0.9), **state)
    text = "</s> is a long text, of more than four tokens </s>" * 3
    assert stateful.encode(text) == plain.encode(text) == stateful.encode(text)
    assert stateful.encode("") == []


def test_an_added_word_that_is_not_special_is_text_and_keeps_the_spaces_beside_it(tmp_path):
    word = added("<user>", 262, special=False, lstrip=True, rstrip=True)
    tree = bpe()
    tokenizer = loaded(tmp_path, tree, added_tokens=[*[added(t, i) for i, t in enumerate(SPECIAL)], word])
    text = "say  <user>  now"
    assert 262 in tokenizer.encode(text) and tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_token_that_is_the_end_of_document_is_refused_when_it_would_be_written(tmp_path):
    tree = unigram(unk_id=2)
    tokenizer = loaded(tmp_path, tree)
    assert tokenizer.encode("write")
    with pytest.raises(DataError, match="special token '</s>'"):
        tokenizer.encode("数")
    assert tokenizer.lost("数") == "数"


def test_characters_that_a_unigram_without_bytes_lacks_are_lost(tmp_path):
    tokenizer = loaded(tmp_path, unigram())
    assert tokenizer.lost("write é 数 to") == "é数"
    assert tokenizer.drops("é", tokenizer.encode("é")) and not tokenizer.drops("e", tokenizer.encode("e"))


def test_text_in_pieces_joins_to_the_whole_for_every_model(tmp_path):
    for kind in ("bpe", "unigram"):
        tokenizer = loaded(tmp_path, MODELS[kind]())
        for text in [*SPELLED, "a   b", "   ", " a"]:
            decoder = tokenizers.StreamDecoder(tokenizer)
            pieces = [decoder.push([i]) for i in tokenizer.encode(text)]
            assert "".join(pieces) + decoder.finish() == tokenizer.decode(tokenizer.encode(text))


def trained(**fields):
    model = io.BytesIO()
    text = ["the cat sat on a mat and write to strike", "abc def ghi jkl mno pqr stu vwx yz"] * 20
    usual = {"sentence_iterator": iter(text), "model_writer": model, "vocab_size": 60, "hard_vocab_limit": False,
             "pad_id": 3, "minloglevel": 2}  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(**(usual | fields))
    return model.getvalue()


BYTES = {
    "byte_fallback": True,
    "vocab_size": 330,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}


def test_a_user_defined_symbol_that_ends_documents_is_spelled_by_no_text():
    model = trained(user_defined_symbols=["<end>", "<sep>"], **BYTES)
    tokenizer = SentencePieceTokenizer(model, "<pad>", "<end>", "the model")
    for text in ("write <end> to strike", "<end>", "a<sep> b", "</s><pad>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and tokenizer.eos_id not in ids and tokenizer.pad_id not in ids
    assert tokenizer.decode([*tokenizer.encode("cat"), tokenizer.eos_id]) == "cat"
    assert tokenizer.model == model, "the file is carried as it is"


def test_an_ordinary_piece_that_ends_documents_is_written_by_no_text():
    tokenizer = SentencePieceTokenizer(trained(**BYTES), "<pad>", "a", "the model")
    ids = tokenizer.encode("a cat")
    assert tokenizer.eos_id not in ids and tokenizer.decode(ids) == "a cat"


@pytest.mark.parametrize("eos", ["<unk>", "<0x41>"])
def test_pieces_that_stand_for_text_end_no_document(eos):
    with pytest.raises(DataError, match=f"'{eos}' is used for text"):
        SentencePieceTokenizer(trained(**BYTES), "<pad>", eos, "the model")


def test_a_stream_of_spaces_joins_to_the_whole_where_decoding_strips_them():
    tokenizer = SentencePieceTokenizer(trained(), "<pad>", "</s>", "the model")
    space, word = tokenizer._inner.piece_to_id("▁"), tokenizer.encode("cat")
    for ids in ([space, space, *word], [*word, space, space, space, *word], [space] * 4):
        decoder = tokenizers.StreamDecoder(tokenizer)
        assert "".join(decoder.push([i]) for i in ids) + decoder.finish() == tokenizer.decode(ids)


def test_sentencepiece_without_bytes_names_removed_characters_and_the_space_sign():
    tokenizer = SentencePieceTokenizer(trained(), "<pad>", "</s>", "the model")
    assert tokenizer.lost("a\x07 cat") == "\x07" and tokenizer.lost("a▁b") == "▁" and tokenizer.lost("数 a") == "数"
    assert tokenizer.drops("a\x07", tokenizer.encode("a\x07")) and not tokenizer.drops("a", tokenizer.encode("a"))


def test_what_a_tokenizer_loses_is_found_by_probes(tmp_path):
    assert lossy_tokenizers.losses(SentencePieceTokenizer(trained(**BYTES), "<pad>", "</s>", "m")) == []
    assert lossy_tokenizers.losses(tokenizers.BytesTokenizer()) == []
    assert lossy_tokenizers.line_of(tokenizers.BytesTokenizer(), "t") == ""
    found = lossy_tokenizers.losses(SentencePieceTokenizer(trained(), "<pad>", "</s>", "m"))
    assert {"newlines", "runs of spaces", "tabs", "accents", "the sign ▁"} <= set(found)
    assert "the spaces between words" not in found
    assert lossy_tokenizers.losses(loaded(tmp_path, bpe())) == []
    lower = lossy_tokenizers.losses(loaded(tmp_path, bpe(), normalizer={"type": "Lowercase"}))
    assert lower == ["capital letters", "compatibility characters (ligatures, full width, superscripts)"]
    accents = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}
    assert "accents" in lossy_tokenizers.losses(loaded(tmp_path, bpe(), normalizer=accents))
    assert "newlines" in lossy_tokenizers.line_of(loaded(tmp_path, word_level()), "tokenizer.path=x")
