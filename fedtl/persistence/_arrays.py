"""Arrays and torch tensors as the tensors of a safetensors file, with dtype and layout kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedtl.persistence._names import PersistenceError

# What safetensors knows; anything else is stored as bytes, with its dtype in the JSON document.
_NATIVE = {"bool", *(f"float{n}" for n in (16, 32, 64))}
_NATIVE |= {f"{kind}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64)}
_DTYPE = re.compile(r"[<>|][biufcmMSUV]\d+(\[\d*[a-zA-Z]+\])?")


def describe_dtype(dtype: np.dtype[Any]) -> Any:
    """Return a dtype as JSON.

    Parameters
    ----------
    dtype : dtype
        Of numbers, dates, text of fixed length or records of these.

    Returns
    -------
    str or dict
        What :func:`read_dtype` takes.

    Raises
    ------
    PersistenceError
        If it holds objects, or text of variable length.
    """
    if dtype.subdtype is not None:
        return {"base": describe_dtype(dtype.subdtype[0]), "shape": list(dtype.subdtype[1])}
    if dtype.names is not None and dtype.fields is not None:
        fields = [(*dtype.fields[name], None)[:3] for name in dtype.names]
        return {
            "names": list(dtype.names),
            "formats": [describe_dtype(kind) for kind, _, _ in fields],
            "offsets": [offset for _, offset, _ in fields],
            "titles": [title for _, _, title in fields],
            "itemsize": dtype.itemsize,
            "align": dtype.isalignedstruct,
        }
    if not _DTYPE.fullmatch(dtype.str):
        raise PersistenceError(f"elements of the type {dtype} cannot be saved")
    return dtype.str


def read_dtype(description: Any) -> np.dtype[Any]:
    """Return the dtype that was described.

    Parameters
    ----------
    description : str or dict
        From :func:`describe_dtype`.

    Returns
    -------
    dtype
        The dtype, never of objects.

    Raises
    ------
    PersistenceError
        If the description is none.
    """
    if isinstance(description, str) and _DTYPE.fullmatch(description):
        return np.dtype(description)
    if not isinstance(description, dict):
        raise PersistenceError(f"{str(description)[:80]!r} is no element type")
    if "base" in description:
        return np.dtype((read_dtype(description["base"]), tuple(description["shape"])))
    formats = [read_dtype(f) for f in description["formats"]]
    record: Any = {key: description[key] for key in ("names", "offsets", "titles", "itemsize")}
    record["formats"] = formats
    return np.dtype(record, align=bool(description["align"]))


def describe_array(array: np.ndarray, name: str, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Put an array among a file's tensors.

    Parameters
    ----------
    array : ndarray of any shape
        Not of objects.
    name : str
        The tensor's name.
    tensors : dict of str to ndarray
        Where it is put: contiguous, little-endian.

    Returns
    -------
    dict
        What :func:`read_array` takes.
    """
    entry: dict[str, Any] = {"tensor": name}
    if array.ndim > 1 and not array.flags.c_contiguous:
        # The layout is kept: a matrix product may round differently on another.
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        array, entry["order"] = array.transpose(order), order
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.name not in _NATIVE or not _is_little_endian(array.dtype):
        entry |= {"dtype": describe_dtype(array.dtype), "shape": list(array.shape)}
        array = np.frombuffer(array.tobytes(), dtype=np.uint8)
    tensors[name] = array
    return entry


def read_array(entry: Any, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return an array of a file.

    Parameters
    ----------
    entry : dict
        From :func:`describe_array`.
    tensors : mapping of str to ndarray
        The file's tensors.

    Returns
    -------
    ndarray
        A writable copy, laid out as the array that was saved.

    Raises
    ------
    PersistenceError
        If there is no such tensor, or it has not the size that is declared.
    """
    name = entry["tensor"]
    if name not in tensors:
        raise PersistenceError(f"the tensor {str(name)[:120]!r} is missing")
    array = tensors[name]
    if "dtype" in entry:
        dtype, shape = read_dtype(entry["dtype"]), tuple(entry["shape"])
        n_bytes = dtype.itemsize
        for length in shape:
            n_bytes *= length
        if array.dtype != np.uint8 or array.ndim != 1 or array.nbytes != n_bytes:
            raise PersistenceError(f"the tensor {name!r} is not of the declared size")
        array = np.ndarray(shape, dtype, buffer=array.tobytes())
    array = np.array(array, order="C", copy=True)
    if "order" in entry:
        array = array.transpose(np.argsort(entry["order"]))
    return array


def describe_tensor(
    tensor: torch.Tensor, name: str, tensors: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Put a torch tensor among a file's tensors; see :func:`describe_array`."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise PersistenceError(f"a torch tensor of {tensor.layout} cannot be saved")
    dtype = str(tensor.dtype).removeprefix("torch.")
    plain = tensor.detach().cpu()
    entry: dict[str, Any] = {}
    if dtype in _NATIVE:
        entry = describe_array(plain.resolve_neg().numpy(), name, tensors)
    else:  # bfloat16, complex numbers, eight-bit floats
        data = plain.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
        entry = describe_array(data.numpy(), name, tensors)
        entry |= {"torch_dtype": dtype, "torch_shape": list(tensor.shape)}
    entry["parameter"] = isinstance(tensor, torch.nn.Parameter)
    entry["requires_grad"] = bool(tensor.requires_grad)
    return entry


def read_tensor(entry: Any, tensors: Mapping[str, np.ndarray]) -> torch.Tensor:
    """Return a torch tensor of a file, on the CPU; see :func:`read_array`."""
    tensor = torch.from_numpy(read_array(entry, tensors))
    if "torch_dtype" in entry:
        dtype = read_torch_dtype(entry["torch_dtype"])
        tensor = tensor.view(dtype).reshape(entry["torch_shape"])
    if entry["parameter"]:
        return torch.nn.Parameter(tensor, requires_grad=bool(entry["requires_grad"]))
    return tensor.requires_grad_(bool(entry["requires_grad"]))


def read_torch_dtype(name: Any) -> torch.dtype:
    """Return torch's element type of that name."""
    dtype = vars(torch).get(name) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise PersistenceError(f"{str(name)[:80]!r} is no torch dtype")
    return dtype


def _is_little_endian(dtype: np.dtype[Any]) -> bool:
    return dtype.str[0] in "<|"
