"""SparseInst's network written out as the paper and the authors' code describe it, for comparison.

Nothing here is optimised, and nothing is shared with the product but its parameters: coordinates
and levels are concatenated and convolved whole, activation maps are normalised before the product
with the features, and every mask is computed and resized.

Shape shorthand: B images, N instances, G activation maps per instance, (h, w) the finest feature.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def plain_outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What a ``SparseInst`` computes of images.

    Args:
        model: whose parameters are used; not one that was prepared for inference.
        images: (B, 3, H, W), normalised and padded.

    Returns:
        ``pred_logits`` (B, N, K), ``pred_masks`` (B, N, s*h, s*w), s the decoder's scale factor,
        and ``pred_scores`` (B, N, 1): logits all.
    """
    return plain_decoder(model.decoder, plain_encoder(model.encoder, model.backbone(images)))


def plain_encoder(encoder: nn.Module, features: dict[str, Tensor]) -> Tensor:
    """``InstanceContextEncoder``: backbone features by name -> (B, C, h, w)."""
    coarsest_first = [features[name] for name in encoder.in_features[::-1]]
    laterals = [
        convolve(conv, feature)
        for conv, feature in zip(encoder.fpn_laterals, coarsest_first, strict=True)
    ]
    tops = [pyramid_pooling(encoder.ppm, laterals[0])]
    for lateral in laterals[1:]:
        tops.append(lateral + F.interpolate(tops[-1], size=lateral.shape[-2:], mode="nearest"))
    outputs = [convolve(conv, top) for conv, top in zip(encoder.fpn_outputs, tops, strict=True)]
    finest_first = [stretch(output, outputs[-1].shape[-2:]) for output in outputs[::-1]]
    return convolve(encoder.fusion, torch.cat(finest_first, dim=1))


def pyramid_pooling(ppm: nn.Module, feature: Tensor) -> Tensor:
    """``PyramidPoolingModule``: (B, C, H, W) -> (B, C, H, W)."""
    parts = []
    for pool, conv in ppm.stages:
        parts.append(stretch(F.relu(convolve(conv, pool(feature))), feature.shape[-2:]))
    return F.relu(convolve(ppm.bottleneck, torch.cat([*parts, feature], dim=1)))


def plain_decoder(decoder: nn.Module, feature: Tensor) -> dict[str, Tensor]:
    """Any of the IAM decoders: (B, C, h, w) -> the output dict."""
    feature = with_coordinates(feature)
    branch = decoder.inst_branch
    located = stack(branch.inst_convs, feature)
    iam_logits = convolve(branch.iam_conv, located).flatten(2)
    if hasattr(branch, "softmax_bias"):
        weights = (iam_logits + branch.softmax_bias).softmax(dim=-1)
    else:
        prob = iam_logits.sigmoid()
        weights = prob / prob.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    vectors = weights @ located.flatten(2).transpose(1, 2)
    if branch.fc is not None:
        batch, maps, dim = vectors.shape
        grouped = vectors.reshape(batch, branch.groups, maps // branch.groups, dim)
        vectors = F.relu(branch.fc(grouped.transpose(1, 2).flatten(2)))
    mask_feature = stack(decoder.mask_branch.mask_convs, feature)
    mask_feature = convolve(decoder.mask_branch.projection, mask_feature)
    masks = branch.mask_kernel(vectors) @ mask_feature.flatten(2)
    masks = masks.unflatten(2, mask_feature.shape[-2:])
    return {
        "pred_logits": branch.cls_score(vectors),
        "pred_masks": F.interpolate(
            masks, scale_factor=decoder.scale_factor, mode="bilinear", align_corners=False
        ),
        "pred_scores": branch.objectness(vectors),
    }


def with_coordinates(feature: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 2 + C, h, w): x, then y, each from -1 to 1; -1 where there is one."""
    batch, _, height, width = feature.shape
    options = {"dtype": feature.dtype, "device": feature.device}
    x = torch.linspace(-1, 1, width, **options).expand(batch, 1, height, width)
    y = torch.linspace(-1, 1, height, **options)[:, None].expand(batch, 1, height, width)
    return torch.cat([x, y, feature], dim=1)


def stack(layers: nn.Sequential, feature: Tensor) -> Tensor:
    """Convolutions and what lies between them."""
    for layer in layers:
        feature = convolve(layer, feature) if isinstance(layer, nn.Conv2d) else layer(feature)
    return feature


def convolve(conv: nn.Conv2d, feature: Tensor) -> Tensor:
    """The convolution over all its channels at once, then its norm if it has one."""
    result = F.conv2d(feature, conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)
    norm = getattr(conv, "norm", None)
    return result if norm is None else norm(result)


def stretch(feature: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
