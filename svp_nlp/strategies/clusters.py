"""Picks spread over clusters: Cluster-Margin and TypiClust.

Shape legend: M rows in use in the order of their keyed hash, S rows of a cluster, K some of the rows.
"""

from __future__ import annotations

import heapq

import numpy as np

from svp_nlp.arrays import BoolN, FloatN, FloatNC, FloatND, IntK, UIntN
from svp_nlp.strategies.base import setwise
from svp_nlp.strategies.kmeans import kmeans
from svp_nlp.strategies.tiles import (
    IntM,
    Tiles,
    check_pairs,
    checked_probs,
    embedding_tiles,
    in_hash_order,
    squared_distances,
    subset,
)
from svp_nlp.strategies.uncertainty import margin

_CANDIDATES = 10  # for each row of the budget
_ROWS_IN_CLUSTER = 10  # on average
_MOST_ROWS_FOR_HAC = 4_096  # 67 MB of distances, a second or two
_MOST_CLUSTERS_FOR_KMEANS = 1_000
_MOST_TYPICLUST_CLUSTERS = 500
_NEIGHBOURS = 20
_SMALL_CLUSTER = 5


@setwise("probs", "embeddings", source="Citovsky et al. 2021, algorithm 2; clusters made anew in each round")
def cluster_margin(
    probs_NC: FloatNC,
    embeddings_ND: FloatND,
    *,
    available_N: BoolN,
    labeled_N: BoolN,
    budget: int,
    keys_N: UIntN,
    seed: int,
) -> IntK:
    """Of the rows with the smallest margins, pick in turn from their clusters, the smallest cluster first.

    Candidates are the 10 x budget available rows with the smallest margins (all where there are fewer). They are
    grouped by cluster, the groups are ordered by size, and one row at random (by the keyed hash) is picked from each
    in turn; groups that are used up are passed over.

    Clusters are of all available rows, ten rows to a cluster on average: hierarchical with average linkage up to 4,096
    rows; beyond that k-means with at most 1,000 clusters.

    Cost: O(N^2 D) up to 4,096 rows, 25 k-means steps of O(N D 1,000) beyond; memory O(N) beside one copy of the
    embeddings of available rows, and 67 MB.

    Args:
        probs_NC: class probabilities, float, rows sum to 1 (tolerance 1e-4), C >= 2.
        embeddings_ND: finite floats.
    Returns:
        int64 [budget], positions in the order of picking.
    Raises:
        SignalError: an available row holds NaN, infinity, or no probabilities; names the first such position.
    Source: Citovsky et al. 2021, "Batch active learning at scale", section 2. There rows are clustered once, before the
        first round, with a distance threshold that is set by hand; here in each round, with the proxy's new embeddings,
        and the threshold follows from the number of clusters. k-means for many rows is ours.
    """
    positions_M = in_hash_order(available_N, keys_N, seed=seed)
    margins = [margin(probs_BC) for probs_BC in checked_probs(probs_NC, positions_M)]
    tiles = embedding_tiles(embeddings_ND, positions_M)
    if budget == 0:
        return np.empty(0, dtype=np.int64)
    clusters_M = _clusters(tiles, seed)
    order_M = np.argsort(-np.concatenate(margins), kind="stable")
    candidates_K = np.sort(order_M[: _CANDIDATES * budget])
    groups: dict[int, list[int]] = {}
    for row, cluster in zip(candidates_K.tolist(), clusters_M[candidates_K].tolist(), strict=True):
        groups.setdefault(cluster, []).append(row)
    turns = sorted(groups.values(), key=lambda rows: (len(rows), rows[0]))
    # The turn of a row is its place in its group; within a turn groups come in their order.
    picks = sorted((turn, g, row) for g, rows in enumerate(turns) for turn, row in enumerate(rows))
    return positions_M[[row for _, _, row in picks[:budget]]]


def _clusters(tiles: Tiles, seed: int) -> IntM:
    num_clusters = -(-tiles.count // _ROWS_IN_CLUSTER)
    if tiles.count > _MOST_ROWS_FOR_HAC:
        return kmeans(tiles, num_clusters=min(num_clusters, _MOST_CLUSTERS_FOR_KMEANS), seed=seed)
    if num_clusters == 1:
        return np.zeros(tiles.count, dtype=np.int32)
    from scipy.cluster.hierarchy import fcluster, linkage

    upper = [
        np.sqrt(squared_distances(tiles, tiles.take(np.array([row])))[0, row + 1 :]) for row in range(tiles.count - 1)
    ]
    tree = linkage(np.concatenate(upper).astype(np.float64), method="average")
    labels_M: IntM = fcluster(tree, num_clusters, criterion="maxclust")
    return labels_M


@setwise(
    "embeddings", source="Hacohen et al. 2022, TPC_RP; clusters and constants of the authors' code", uses_labeled=True
)
def typiclust(
    embeddings_ND: FloatND, *, available_N: BoolN, labeled_N: BoolN, budget: int, keys_N: UIntN, seed: int
) -> IntK:
    """Pick the most typical row of the largest cluster among those with the fewest labelled and picked rows.

    Rows in use are clustered by k-means into labelled + budget clusters, 500 at most. Typicality is the inverse of the
    mean distance to the 20 nearest rows of the same cluster (all of it where it is smaller). Clusters of up to 5 rows
    wait until the others have no available row. Made for the first rounds: it needs no label and no trained head.

    Cost: 25 k-means steps of O(N D clusters), then O(S^2 D) for each cluster of S rows; memory O(N) beside one copy of
    the rows in use.

    Args:
        embeddings_ND: finite floats, of the rows in use; the others are not read.
    Returns:
        int64 [budget], positions in the order of picking; ties by the keyed hash.
    Raises:
        SignalError: a row in use holds NaN or infinity (names the first position), or clusters are so large that more
            than 40 billion pairs would have to be compared.
    Source: Hacohen et al. 2022, "Active learning on a budget", section 3. Picks of the round count as labelled, so
        that a budget above 500 goes round the clusters again; their code drops small clusters, we leave them for last.
    """
    positions_M = in_hash_order(available_N | labeled_N, keys_N, seed=seed)
    tiles = embedding_tiles(embeddings_ND, positions_M)
    if budget == 0:
        return np.empty(0, dtype=np.int64)
    open_M = available_N[positions_M]
    num_clusters = min(int((~open_M).sum()) + budget, _MOST_TYPICLUST_CLUSTERS)
    labels_M = kmeans(tiles, num_clusters=num_clusters, seed=seed)
    sizes_C = np.bincount(labels_M)
    check_pairs(int((sizes_C**2).sum()), "typiclust")
    members_C = np.split(np.argsort(labels_M, kind="stable"), np.cumsum(sizes_C)[:-1])
    queue: list[tuple[bool, int, int, int]] = []  # small, labelled and picked, minus the size, first row
    rows_of: dict[int, list[int]] = {}  # by first row: available rows, the most typical last
    for members_S in members_C:
        if not (open_S := open_M[members_S]).any():
            continue
        order_S = np.argsort(_mean_distances(subset(tiles, members_S)), kind="stable")
        first = int(members_S[0])
        rows_of[first] = members_S[order_S][open_S[order_S]][::-1].tolist()
        size = len(members_S)
        queue.append((size <= _SMALL_CLUSTER, size - int(open_S.sum()), -size, first))
    heapq.heapify(queue)
    picked: list[int] = []
    while len(picked) < budget:
        small, labeled, size, first = queue[0]
        picked.append(rows_of[first].pop())
        if rows_of[first]:
            heapq.heapreplace(queue, (small, labeled + 1, size, first))
        else:
            heapq.heappop(queue)
    return positions_M[picked]


def _mean_distances(cluster: Tiles) -> FloatN:
    """Mean distance of each row of a cluster to its 20 nearest others; 0 for a row that is alone."""
    means_S = np.zeros(cluster.count, dtype=np.float32)
    neighbours = min(_NEIGHBOURS, cluster.count - 1)
    if neighbours == 0:
        return means_S
    for start in range(0, cluster.count, 64):
        chunk_K = np.arange(start, min(start + 64, cluster.count))
        distances_KS = squared_distances(cluster, cluster.take(chunk_K))
        distances_KS[np.arange(len(chunk_K)), chunk_K] = np.inf
        # Sorted after the partition, whose order within the nearest differs between processors.
        near_KJ = np.sort(np.partition(distances_KS, neighbours - 1, axis=1)[:, :neighbours], axis=1)
        means_S[chunk_K] = np.sqrt(near_KJ).mean(axis=1, dtype=np.float64)
    return means_S
