"""What torch does for greedy k-centers: products on a GPU, and exchange between the processes of a launch.

torch is imported when one of these functions is called, so that picking from arrays does not load it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import FloatN, FloatND, IntN
from svp_nlp.strategies.kcenters_blocks import Exchange
from svp_nlp.strategies.kcenters_rows import Frame, chunks, take

if TYPE_CHECKING:
    import torch

_ROWS_PER_PRODUCT, _CENTRES_PER_PRODUCT = 65_536, 1024


def has_gpu() -> bool:
    """Whether torch can use a GPU of the CUDA kind here."""
    import torch

    return torch.cuda.is_available()


@dataclass(frozen=True)
class TorchProducts:
    """Products by torch (`kcenters_bounds.Products`): full float32, on any device.

    `resident` holds the framed rows, chunk by chunk, where the memory of the device has room for them; else they are
    sent at each call.
    """

    embeddings_ND: npt.NDArray[Any]
    positions_R: IntN
    frame: Frame
    radii_R: FloatN
    device: torch.device
    resident: list[torch.Tensor]

    def smallest(self, centres_KD: FloatND, squares_K: FloatN, crosses_K: FloatN) -> FloatN:
        """See `kcenters_bounds.Products`."""
        import torch

        nearest_R = np.empty(len(self.positions_R), dtype=np.float32)
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # TensorFloat-32 would break the bounds
        try:
            centres = torch.from_numpy(centres_KD).to(self.device)
            squares = torch.from_numpy(squares_K).to(self.device)[:, None]
            crosses = torch.from_numpy(crosses_K).to(self.device)[:, None]
            blocks = [slice(low, low + _CENTRES_PER_PRODUCT) for low in range(0, len(centres), _CENTRES_PER_PRODUCT)]
            for number, (part, positions_B) in enumerate(chunks(self.positions_R, _ROWS_PER_PRODUCT)):
                rows = self.resident[number] if self.resident else self._send(positions_B)
                radii = torch.from_numpy(self.radii_R[part]).to(self.device)
                lowest = [
                    torch.addcmul(squares[some], crosses[some], radii).add_(centres[some] @ rows.T).amin(dim=0)
                    for some in blocks
                ]
                nearest_R[part] = torch.stack(lowest).amin(dim=0).cpu().numpy()
        finally:
            torch.set_float32_matmul_precision(precision)
        return nearest_R

    def _send(self, positions_B: IntN) -> torch.Tensor:
        import torch

        rows_BD = self.frame.apply(take(self.embeddings_ND, positions_B))
        return torch.tensor(rows_BD, device=self.device)  # copies: rows_BD may be a part of a read-only file


def torch_products(
    embeddings_ND: npt.NDArray[Any], positions_R: IntN, frame: Frame, radii_R: FloatN, device: str
) -> TorchProducts:
    """Products on a device of torch; on a GPU the rows are sent once if they fit into half of its free memory."""
    import torch

    products = TorchProducts(embeddings_ND, positions_R, frame, radii_R, torch.device(device), [])
    if products.device.type != "cpu":
        size_bytes = 4 * len(positions_R) * embeddings_ND.shape[1]
        if size_bytes < torch.cuda.mem_get_info(products.device)[0] / 2:
            products.resident.extend(products._send(some) for _, some in chunks(positions_R, _ROWS_PER_PRODUCT))
    return products


def gpu_products(embeddings_ND: npt.NDArray[Any], positions_R: IntN, frame: Frame, radii_R: FloatN) -> TorchProducts:
    """Products on the GPU that torch uses by default in this process."""
    return torch_products(embeddings_ND, positions_R, frame, radii_R, "cuda")


def torch_exchange() -> Exchange:
    """Gathers an array from all processes of the default group of torch.distributed; to be called by all of them.

    It goes through the memory of the host, by gloo: a group of its own is made where the default one cannot do that.
    """
    import torch
    from torch import distributed

    group = None if "gloo" in distributed.get_backend() else distributed.new_group(backend="gloo")

    def exchange(array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        mine = torch.from_numpy(np.ascontiguousarray(array).view(np.uint8))
        parts = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, mine, group=group)
        return [part.numpy().view(array.dtype) for part in parts]

    return exchange
