"""Tokenizer and configuration of a RoBERTa, made from sentences: a small one, or a stand-in for roberta-base."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, RobertaConfig

from stvg_nst.machine.whole_files import write_whole

# In RoBERTa's own order, so that the padding index is 1 as its position embeddings expect.
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def write_text_encoder(
    sentences: Iterable[str], folder: Path, *, width: int, layers: int, heads: int, max_tokens: int, vocabulary: int
) -> None:
    """Trains a byte-level tokenizer on ``sentences`` and writes it beside the configuration of a RoBERTa for it.

    Args:
        folder: gets ``tokenizer.json``, ``tokenizer_config.json`` and ``config.json``.
        width, layers, heads: of the encoder; its perceptrons are four times as wide.
        max_tokens: longest sentence.
        vocabulary: largest number of tokens; no fewer than 261 bytes and special tokens.
    """
    bpe = ByteLevelBPETokenizer(add_prefix_space=True)
    bpe.train_from_iterator(sentences, vocab_size=vocabulary, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    inner = Tokenizer.from_str(bpe.to_str())
    inner.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, inner.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
    )
    _save(
        folder,
        tokenizer,
        RobertaConfig(
            vocab_size=inner.get_vocab_size(),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=max_tokens + 2,
            type_vocab_size=1,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
        ),
    )


def write_stand_in(sentences: Iterable[str], folder: Path) -> None:
    """The configuration of roberta-base beside a tokenizer of ours, for the full size without any trained weights.

    The tokenizer splits every sentence, but not as RoBERTa's does: with trained weights its numbers mean nothing.

    Args:
        folder: gets ``tokenizer.json``, ``tokenizer_config.json`` and ``config.json``.
    """
    write_text_encoder(sentences, folder, width=768, layers=12, heads=12, max_tokens=512, vocabulary=1000)
    _save(
        folder,
        RobertaConfig(
            vocab_size=50265,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        ),
    )


def _save(folder: Path, *parts: PreTrainedTokenizerBase | RobertaConfig) -> None:
    """Saves what belongs in one folder, each file whole or not at all."""
    with TemporaryDirectory() as draft:
        for part in parts:
            part.save_pretrained(draft)
        for file in Path(draft).iterdir():
            write_whole(folder / file.name, file.read_bytes())
