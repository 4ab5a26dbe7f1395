"""A BERT of two tiny layers with dropout, from its configuration: no download, no vocabulary."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

VOCABULARY, CLASSES, LONGEST = 40, 3, 12


def tiny_bert(**options: Any) -> nn.Module:
    """Weights from torch's generator: call it inside `seeded`. `add_pooling_layer` is on and the pooler in use."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=LONGEST, num_labels=CLASSES, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2,
        attn_implementation="sdpa", **options,
    )  # fmt: skip
    return BertForSequenceClassification(config)


class UnusedPooler(nn.Module):
    """Classifies the first hidden state; the encoder has a pooler that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = tiny_bert().bert
        self.output = nn.Linear(16, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden_BTD = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.output(hidden_BTD[:, 0])


@dataclasses.dataclass
class TokenRows:
    """Token rows of different lengths, padded to the longest of a batch."""

    tokens_NT: np.ndarray
    lengths_N: np.ndarray | None
    true_lengths_N: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens_NT)

    def collate(self, rows_B: np.ndarray, *, rng: np.random.Generator | None) -> dict[str, Tensor]:
        lengths_B = self.true_lengths_N[rows_B]
        width = int(lengths_B.max())
        mask_BT = np.arange(width) < lengths_B[:, None]
        return {
            "input_ids": torch.from_numpy(self.tokens_NT[rows_B, :width]),
            "attention_mask": torch.from_numpy(mask_BT.astype(np.int64)),
        }


def token_rows(num_rows: int, *, grouped: bool = True, seed: int = 0) -> tuple[TokenRows, np.ndarray]:
    """The class decides which third of the vocabulary most tokens come from."""
    rng = np.random.default_rng(seed)
    labels_L = rng.integers(CLASSES, size=num_rows)
    lengths_N = rng.integers(2, LONGEST + 1, size=num_rows)
    tokens_NT = 1 + rng.integers(13, size=(num_rows, LONGEST)) + 13 * labels_L[:, None]
    noise_NT = rng.random(tokens_NT.shape) < 0.3
    tokens_NT[noise_NT] = rng.integers(1, VOCABULARY, size=int(noise_NT.sum()))
    tokens_NT[np.arange(LONGEST) >= lengths_N[:, None]] = 0
    return TokenRows(tokens_NT, lengths_N if grouped else None, lengths_N), labels_L
