"""BADGE: diverse and uncertain rows by k-means++ on gradients that are never written out."""

from __future__ import annotations

import numpy as np

from svp_nlp.arrays import BoolN, FloatNC, FloatND, IntK, UIntN
from svp_nlp.strategies.base import setwise
from svp_nlp.strategies.tiles import (
    checked_probs,
    cut_chunks,
    draw,
    embedding_tiles,
    in_hash_order,
    inner_products,
    squared_norms,
    uniforms,
)


@setwise("probs", "embeddings", source="Ash et al. 2020, algorithm 1; first pick as in the authors' code")
def badge(
    probs_NC: FloatNC,
    embeddings_ND: FloatND,
    *,
    available_N: BoolN,
    labeled_N: BoolN,
    budget: int,
    keys_N: UIntN,
    seed: int,
) -> IntK:
    """Draw rows by k-means++ on the gradients of the last layer, were the most likely class the label.

    The gradient of a row is the outer product of a = p - onehot(argmax p) and its embedding x, hence
    |g - g'|^2 = |x|^2 |a|^2 + |x'|^2 |a'|^2 - 2 (x.x') (a.a'): the N x C D matrix is not needed. The first pick is the
    largest gradient; each further row is drawn with a chance in proportion to its squared distance to the nearest pick,
    by one uniform number a pick, over rows in the order of their keyed hash. When all rows equal a pick, the rest
    follows the keyed hash.

    Cost: O(N (D + C)) a pick; memory O(N) beside one copy of the embeddings and probabilities of available rows.

    Args:
        probs_NC: class probabilities, float, rows sum to 1 (tolerance 1e-4), C >= 2.
        embeddings_ND: finite floats: the input of the last layer.
    Returns:
        int64 [budget], positions in the order of picking.
    Raises:
        SignalError: an available row holds NaN, infinity, or no probabilities; names the first such position.
    Source: Ash et al. 2020, "Deep batch active learning by diverse, uncertain gradient lower bounds", section 3. Their
        algorithm draws the first row uniformly, their code takes the largest gradient, and so do we.
    """
    positions_M = in_hash_order(available_N, keys_N, seed=seed)
    errors = cut_chunks(map(_errors, checked_probs(probs_NC, positions_M)), len(positions_M), probs_NC.shape[-1])
    embeddings = embedding_tiles(embeddings_ND, positions_M)
    if budget == 0:
        return np.empty(0, dtype=np.int64)
    norms_M = squared_norms(embeddings).astype(np.float64) * squared_norms(errors)
    chances_M = np.full(len(norms_M), np.inf)  # of being drawn: squared distance to the nearest pick
    picked = [int(np.argmax(norms_M))]
    uniforms_K = uniforms(budget, seed=seed, salt="badge")
    while len(picked) < budget:
        last = np.array(picked[-1:])
        products_M = inner_products(embeddings, embeddings.take(last))[0].astype(np.float64)
        products_M *= inner_products(errors, errors.take(last))[0]
        distances_M = norms_M + norms_M[last] - 2 * products_M  # exactly 0 for equal rows, see squared_norms
        np.minimum(chances_M, np.maximum(distances_M, 0), out=chances_M)
        drawn = draw(chances_M, float(uniforms_K[len(picked)]))
        if drawn < 0:
            left_M = np.ones(len(positions_M), dtype=np.bool_)
            left_M[picked] = False
            picked += np.flatnonzero(left_M)[: budget - len(picked)].tolist()
            break
        picked.append(drawn)
    return positions_M[picked]


def _errors(probs_BC: FloatNC) -> FloatNC:
    probs_BC[np.arange(len(probs_BC)), probs_BC.argmax(axis=1)] -= 1
    return probs_BC
