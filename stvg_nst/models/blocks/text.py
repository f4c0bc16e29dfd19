"""The text encoder: RoBERTa and a projection to the grounding model's width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, RobertaConfig, RobertaModel

from stvg_nst.queries import query_fault


class TokenIds(NamedTuple):
    """Sentences as the tokenizer reads them: ids (B, L) int64, and their mask (B, L) int64, 1 on real tokens."""

    ids: Tensor
    mask: Tensor


class TextEncoder(nn.Module):
    """Encodes sentences, padded to the longest.

    Args:
        source: a folder with ``config.json`` and the tokenizer's files, or a model's name on the hub.
        width: features of the tokens that come out.
        dropout: probability after the projection.
        lower_case: read sentences without their capitals, as CG-STVG does; RoBERTa itself tells them apart.

    Raises:
        OSError: the source is neither a complete folder nor a model that the hub's cache holds or the hub hands out.
        ValueError: its tokenizer and its configuration do not belong together.
    """

    def __init__(self, source: str, width: int, dropout: float = 0.1, *, lower_case: bool = True) -> None:
        super().__init__()
        self.lower_case = lower_case
        self.tokenizer, config = _fetch(source)
        if len(self.tokenizer) > config.vocab_size:
            raise ValueError(
                f"the tokenizer in '{source}' has {len(self.tokenizer)} tokens but its config.json a vocabulary of "
                f"{config.vocab_size}; the two files do not belong together"
            )
        self.body = RobertaModel(config, add_pooling_layer=False)
        self.projection = nn.Linear(config.hidden_size, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Sequence[str] | TokenIds) -> tuple[Tensor, Tensor]:
        """B sentences -> tokens (B, L, width) and their mask (B, L), True on real tokens.

        Raises:
            ValueError: a text is no sentence, or longer than the encoder can take.
        """
        tokens = queries if isinstance(queries, TokenIds) else self.tokenize(queries)
        device = self.norm.weight.device  # the projection may be tuned, and a wrapped layer has no weight
        mask = tokens.mask.to(device)
        hidden = self.body(input_ids=tokens.ids.to(device), attention_mask=mask).last_hidden_state
        return self.dropout(self.norm(self.projection(hidden))), mask.to(torch.bool)

    def tokenize(self, queries: Sequence[str]) -> TokenIds:
        """B sentences, padded to the longest; raises as :meth:`forward`."""
        tokens = self.tokenizer(self._as_read(queries), padding="longest", return_tensors="pt")
        if tokens.input_ids.shape[1] > self.max_tokens or any(map(query_fault, queries)):
            index, fault = next(iter(self.query_faults(queries).items()))
            raise ValueError(f"expected a sentence that the text encoder takes, got {queries[index]!a}, which {fault}")
        return TokenIds(tokens.input_ids, tokens.attention_mask)

    @property
    def max_tokens(self) -> int:
        # RoBERTa numbers positions from the padding index on, so that two of its embeddings are never used.
        return int(self.body.config.max_position_embeddings) - 2

    def query_faults(self, queries: Sequence[str]) -> dict[int, str]:
        """As of a grounder. A sentence that is too long is not cut, as none is in the published code of the field."""
        texts = self._as_read(queries)
        # A token of a byte-level tokenizer covers at least one byte, so most sentences need not be split: to split
        # the 80,684 of VidSTG's training set takes ten seconds.
        most_bytes = self.max_tokens - self.tokenizer.num_special_tokens_to_add()
        doubtful = [index for index, text in enumerate(texts) if len(text.encode()) > most_bytes]
        lengths = {}
        if doubtful:
            tokens = self.tokenizer([texts[index] for index in doubtful], verbose=False).input_ids
            lengths = dict(zip(doubtful, map(len, tokens), strict=True))
        faults = {}
        for index, query in enumerate(queries):
            if fault := query_fault(query):
                faults[index] = fault
            elif lengths.get(index, 0) > self.max_tokens:
                faults[index] = f"is too long: at most {self.max_tokens} tokens, got {lengths[index]}"
        return faults

    def token_ids(self, query: str) -> tuple[int, ...]:
        """What the encoder reads of a sentence."""
        return tuple(self.tokenizer(self._as_read([query])[0]).input_ids)

    def _as_read(self, queries: Sequence[str]) -> list[str]:
        return [query.lower() if self.lower_case else query for query in queries]


def _fetch(source: str) -> tuple[PreTrainedTokenizerBase, RobertaConfig]:
    """The tokenizer and the configuration of a folder or of a model of the hub."""
    require_readable(source)
    try:
        return AutoTokenizer.from_pretrained(source), RobertaConfig.from_pretrained(source)
    except OSError as error:
        raise OSError(
            f"no tokenizer and configuration of the text encoder in '{source}': it is no folder with config.json and "
            "tokenizer.json, not in the cache of the Hugging Face hub, and the hub did not hand it out; run once with "
            "a network, or give the folder of a copy with --model.grounder.init_args.text.init_args.source FOLDER "
            "(docs/weights.md)"
        ) from error


def require_readable(source: str) -> None:
    """Raises OSError where a folder is there and cannot be read, or one of its files: transformers calls it absent."""
    if not Path(source).is_dir():
        return
    for file in Path(source).iterdir():
        if file.is_file():
            with file.open("rb"):
                pass
