"""Text to ids and back: bytes, a model's own tokenizer, its chat template, and text as its tokens come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.engines.torch.tokenizer import ByteTokenizer, FileTokenizer, IncrementalText, tokenizer_of
from rakka_sim.errors import BadRequest, InputError

BYTES = ByteTokenizer()
texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts)
def test_bytes_there_and_back(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text)) == text


@given(texts, st.data())
def test_text_that_comes_in_pieces_is_the_whole_text(text: str, data: st.DataObject) -> None:
    tokens, pieces, said = BYTES.encode(text), [], IncrementalText(BYTES.decode)
    while tokens:
        count = data.draw(st.integers(1, 3))
        pieces.append(said.add(tokens[:count], final=count >= len(tokens)))
        tokens = tokens[count:]
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces if piece not in text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level tokenizer trained on a few words, a template and two ends of sequence."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tokenizer")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(["the quick brown fox", "the lazy dog", "user assistant system"] * 20, trainer)
    made.save(str(folder / "tokenizer.json"))
    template = (
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'tool' %}"
        "{{ raise_exception('no tools here') }}{% endif %}{{ message.role }}: {{ message.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    return folder


@given(texts)
def test_a_trained_tokenizer_there_and_back(trained: Path, text: str) -> None:
    loaded = FileTokenizer(trained)
    tokens = loaded.encode(text)
    assert loaded.decode(tokens) == text
    said = IncrementalText(loaded.decode)
    assert "".join(said.add([token], final=n == len(tokens)) for n, token in enumerate(tokens, 1)) == text


def test_half_a_character_is_said_when_no_more_comes() -> None:
    said = IncrementalText(BYTES.decode)
    assert said.add([0x41, 0xE2]) == ""
    assert said.add([0x82], final=True) == "A\N{REPLACEMENT CHARACTER}"


def test_a_chat_is_written_as_the_model_wants_it(trained: Path) -> None:
    loaded = tokenizer_of(trained)
    assert loaded.eos_ids == (1, 2)
    tokens = loaded.chat([("system", "the dog"), ("user", "the fox")])
    assert isinstance(loaded, FileTokenizer)
    assert tokens[0] == 0
    assert tokens.count(1) == 2
    assert loaded.decode(tokens) == "system: the doguser: the foxassistant:"


def test_what_the_template_refuses_is_a_bad_request(trained: Path) -> None:
    with pytest.raises(BadRequest, match="no tools here"):
        FileTokenizer(trained).chat([("tool", "x")])


def test_a_template_is_kept_from_the_machine_it_runs_on(trained: Path, tmp_path: Path) -> None:
    for file in trained.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(BadRequest, match="unsafe"):
        FileTokenizer(tmp_path).chat([("user", "x")])


def test_a_model_without_a_template_takes_no_messages(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes())
    with pytest.raises(BadRequest, match="no chat template"):
        FileTokenizer(tmp_path).chat([("user", "x")])


def test_a_folder_without_a_tokenizer_speaks_bytes(tmp_path: Path) -> None:
    assert isinstance(tokenizer_of(tmp_path), ByteTokenizer)
    assert tokenizer_of(None).chat([("user", "hi")]) == list(b"user: hi\nassistant: ")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        FileTokenizer(tmp_path)
