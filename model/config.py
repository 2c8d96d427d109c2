"""Every number that describes a network or its training, with its unit and range; and the presets.

A configuration is a frozen value; captune.model.flat writes it as dotted names (`image.backbone`,
`train.learning_rate`) for tables and for Optuna. Numbers outside their range raise pydantic's ValidationError.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from captune.errors import in_words
from captune.model.backbones import BACKBONES, Scaling
from captune.model.towers import TOWERS, Cut

BackboneName = Literal[
    "compact",
    "transformer",
    "ResNet50",
    "EfficientNetV2B0",
    "EfficientNetV2B1",
    "EfficientNetV2B2",
    "EfficientNetB0",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "DenseNet121",
    "VGG16",
    "ConvNeXtTiny",
    "EfficientNetLite0",
    "EfficientNetLite1",
    "EfficientNetLite2",
    "AlexNet",
]
Modality = Literal["both", "image", "caption"]
Storage = Literal["float32", "float16", "int8", "int4"]
Metric = Literal["mean_f1", "micro_f1", "macro_f1", "map"]
"""What a search may maximise: names of `captune.model.metrics.Metrics`."""
TITLES: dict[Metric, str] = {
    "mean_f1": "mean F1",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "map": "mean average precision",
}
LEAST_PIECES = 3
"""That a transformer reads of a caption: its start, a piece, its end."""
Share = Annotated[float, Field(ge=0, le=0.9)]


class Settings(BaseModel):
    """A frozen, closed set of numbers: unknown names, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageConfig(Settings):
    """The image encoder: backbone, pooling over the picture, dropout, dense layer."""

    backbone: BackboneName = Field("compact", description="network that reads the pixels")
    weights: str = Field(
        "none",
        description="imagenet, none (random start), or a file: .safetensors, .npz, .weights.h5, .keras, .h5; of a "
        "transformer the folder of a CLIP model, with config.json and model.safetensors",
    )
    cut: Cut = Field(
        "final",
        description="where the backbone ends: last_map before its final 1x1 convolution, stride_16 at the last map "
        "with a position for every 16 pixels a side; what is behind is no part of the network",
    )
    frozen: bool = Field(False, description="leave the backbone's weights as they are loaded")
    scaling: Literal["backbone", "unit"] = Field(
        "backbone", description="pixels as the backbone's pretrained weights expect them, or divided by 255"
    )
    side: int = Field(224, ge=8, le=1024, description="pixels a side of the pictures; set from the data")
    max_side: int = Field(
        0, ge=0, le=1024, description="larger pictures are reduced on the device to so many pixels a side; 0: none are"
    )
    min_side: int = Field(
        0,
        ge=0,
        le=1024,
        description="smaller ones are enlarged to so many, or to a lower max_side; 0: none are",
    )
    pooling: Literal["average", "max", "both", "class_token"] = Field(
        "average", description="over the positions; class_token: a transformer's own features of the whole picture"
    )
    units: int = Field(128, ge=0, le=4096, description="dense layer after pooling; 0: none")
    head: Literal["pooled", "positions", "queries"] = Field(
        "pooled",
        description="labels from the whole picture, or from each position: the mean of exponentials over them "
        "(positions), or a mean that each label weights by what it looks for (queries)",
    )
    position_units: int = Field(
        0, ge=0, le=4096, description="positions, queries only: dense layer at each position before; 0: none"
    )
    dropout: Share = Field(0.0, description="share of the backbone's features dropped in training")
    stem: int = Field(
        0, ge=0, le=256, description="compact only: channels of a convolution before the first, of all pixels; 0: none"
    )
    width: int = Field(16, ge=4, le=256, description="compact only: channels of the first convolution of stride 2")
    stages: int = Field(3, ge=1, le=6, description="compact only: stages, each half the side, twice the channels")
    blocks: int = Field(1, ge=1, le=4, description="compact only: convolutions in a stage")
    last_halving: bool = Field(
        True, description="compact only: whether the last stage halves the side too; false: four times the positions"
    )
    layers: int = Field(48, ge=1, le=48, description="transformer only: of its own layers so many are kept, the first")
    heads: int = Field(12, ge=1, le=64, description="transformer only: heads of a layer; set from its weights")
    patch: int = Field(8, ge=1, le=64, description="transformer only: pixels a side of a patch; set from its weights")
    channels: int = Field(768, ge=1, le=4096, description="transformer only: values a patch; set from its weights")
    hidden: int = Field(
        3072, ge=1, le=2**16, description="transformer only: values inside its dense layers; set from its weights"
    )

    @model_validator(mode="after")
    def _weights_suit_the_backbone(self) -> Self:
        if self.backbone == "compact" and self.weights == "imagenet":
            raise ValueError("compact has no ImageNet weights; use weights: none, or another backbone")
        if self.frozen and self.weights == "none":
            raise ValueError("a frozen backbone needs weights (imagenet or a file), as random ones never learn")
        if self.backbone == "compact" and self.seen_side < (least := 2 ** (self.stages + 1)):
            raise ValueError(f"{self.stages} stages need a side of {least} pixels, got {self.seen_side}")
        least = BACKBONES[self.backbone].least_side if self.is_named else self.patch
        if self.backbone != "compact" and self.seen_side < least:
            raise ValueError(f"{self.backbone} needs a side of at least {least} pixels, got {self.seen_side}")
        return self

    @model_validator(mode="after")
    def _transformer_is_whole(self) -> Self:
        if self.backbone == "transformer" and self.channels % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {self.channels} values a patch")
        if self.pooling == "class_token" and (self.backbone != "transformer" or self.head != "pooled"):
            raise ValueError("image.pooling class_token needs image.backbone: transformer and image.head: pooled")
        return self

    @model_validator(mode="after")
    def _backbone_can_end_there(self) -> Self:
        if self.weights == "imagenet" and self.backbone in TOWERS:
            raise ValueError(
                f"{self.backbone} has its weights from a file, see `captune weights convert`, or from none"
            )
        if self.weights == "imagenet" and self.backbone == "transformer":
            raise ValueError("transformer has its weights from the folder of a CLIP model, not imagenet")
        cuts = ("final", *BACKBONES[self.backbone].cuts) if self.is_named else ("final",)
        if self.cut not in cuts:
            raise ValueError(f"{self.backbone} ends at {' or '.join(cuts)}, got image.cut {self.cut}")
        return self

    @property
    def is_named(self) -> bool:
        """Whether the backbone is one of captune.model.backbones, whose shape is fixed."""
        return self.backbone in BACKBONES

    @property
    def scaling_of_backbone(self) -> Scaling | None:
        """What a pretrained backbone expects of pixels; None of compact, which has 0..1."""
        if self.backbone == "transformer":
            return "clip"
        return BACKBONES[self.backbone].scaling if self.is_named else None

    @property
    def seen_side(self) -> int:
        """Pixels a side that the backbone sees."""
        side = max(self.side, self.min_side)
        return min(side, self.max_side or side)

    @property
    def patches(self) -> int:
        """Of a transformer, along a side."""
        return self.seen_side // self.patch


class TextConfig(Settings):
    """The text encoder: embedding, encoder over the tokens, dropout, dense layer."""

    encoder: Literal["bilstm", "lstm", "gru", "convolution", "average", "transformer"] = Field(
        "convolution", description="what reads the embedded tokens; transformer: a pretrained one, of word pieces"
    )
    weights: str = Field(
        "none", description="transformer only: folder with config.json, model.safetensors and a vocabulary of pieces"
    )
    pretrained: bool = Field(
        True, description="transformer only: begin with its weights; false: at random, of its shape and its pieces"
    )
    frozen: bool = Field(False, description="transformer only: leave its weights as they are loaded")
    layers: int = Field(48, ge=1, le=48, description="transformer only: of its own layers so many are kept, the first")
    heads: int = Field(12, ge=1, le=64, description="transformer only: heads of a layer; set from its weights")
    family: Literal["bert", "clip"] = Field(
        "bert", description="transformer only: whose layers it is of; set from its weights"
    )
    pooling: Literal["average", "max", "both", "end"] = Field(
        "average", description="transformer only: over the pieces; end: the mark behind the last, as CLIP was trained"
    )
    vocabulary_size: int = Field(10_000, ge=3, le=1_000_000, description="token ids, padding and unknown included")
    max_tokens: int = Field(64, ge=1, le=512, description="tokens of a caption that are read")
    embedding: int = Field(128, ge=1, le=1024, description="values a token; of a transformer set from its weights")
    units: int = Field(
        128,
        ge=1,
        le=4096,
        description="recurrent units a direction, or convolution filters; of a transformer set from its weights",
    )
    kernel: int = Field(3, ge=1, le=9, description="convolution only: tokens a filter sees")
    dense: int = Field(128, ge=0, le=4096, description="dense layer after the encoder; 0: none")
    embedding_dropout: Share = Field(0.0, description="share of embedded values dropped in training")
    dropout: Share = Field(0.0, description="share of the encoder's features dropped in training")
    wide: bool = Field(False, description="each word adds to the logits by itself, too: a linear branch")
    wide_buckets: int = Field(
        0, ge=0, le=2**20, description="wide only: rows that pairs of words share by a hash; 0: single words alone"
    )

    @model_validator(mode="after")
    def _vocabulary_holds_more_than_marks(self) -> Self:
        if self.vocabulary_size <= self.marks:
            raise ValueError(f"a transformer needs a vocabulary_size of at least {self.marks + 1}")
        if self.encoder == "transformer" and self.max_tokens < LEAST_PIECES:
            raise ValueError(f"a transformer needs max_tokens of at least {LEAST_PIECES}: a start, a piece, an end")
        return self

    @model_validator(mode="after")
    def _weights_can_learn(self) -> Self:
        if self.encoder == "transformer" and self.frozen and not self.pretrained:
            raise ValueError("a frozen transformer needs text.pretrained: true, as random weights never learn")
        return self

    @property
    def marks(self) -> int:
        """Ids that stand for no word: padding, unknown, and the start and the end that a transformer reads."""
        return 4 if self.encoder == "transformer" else 2

    @property
    def begins_with_weights(self) -> bool:
        """Whether it is a transformer with the weights of its folder."""
        return self.encoder == "transformer" and self.pretrained and self.weights != "none"

    @property
    def keeps_tower(self) -> bool:
        """Whether a pretrained tower gives the same features of a caption all through training."""
        return self.encoder == "transformer" and self.frozen


class ModelConfig(Settings):
    """One network. With both encoders they are fused; with one, its features go to the head as they are."""

    image: ImageConfig | None = None
    text: TextConfig | None = None
    fusion: Literal["concatenation", "gated", "summed"] = Field(
        "concatenation",
        description="how the encoders meet; summed: logits of the picture, of the caption and of both are added",
    )
    modality_dropout: Share = Field(
        0.0, description="share of pictures' and of captions' features that fusion goes without in training"
    )
    head_units: int = Field(0, ge=0, le=4096, description="dense layer before the outputs; 0: none")
    head_dropout: Share = Field(0.0, description="share dropped in training before the outputs")
    num_labels: int = Field(18, ge=1, le=10_000, description="outputs; set from the data")
    storage: Storage = Field("float32", description="what kernels and embeddings are shipped as; scores are of that")

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if self.image is None and self.text is None:
            raise ValueError("a model needs an image encoder, a text encoder, or both")
        return self

    @model_validator(mode="after")
    def _logits_are_summed(self) -> Self:
        if self.modality == "both" and self.image.head != "pooled" and self.fusion != "summed":  # type: ignore[union-attr]
            raise ValueError(
                f"image.head {self.image.head} gives logits, which fusion {self.fusion} cannot join with a caption; "  # type: ignore[union-attr]
                "use fusion: summed, or image.head: pooled"
            )
        return self

    @property
    def has_parts(self) -> bool:
        """Whether picture and caption have logits of their own."""
        return self.fusion == "summed" and self.modality == "both"

    @property
    def modality(self) -> Modality:
        """What the network reads."""
        if self.image is None:
            return "caption"
        return "image" if self.text is None else "both"

    def stored_as(self, storage: Storage) -> ModelConfig:
        """The same in another storage."""
        return self.model_copy(update={"storage": storage})


class AugmentConfig(Settings):
    """Random affine changes of training pictures, drawn anew for every picture; pixels outside repeat the border."""

    rotation: float = Field(0.0, ge=0, le=180, description="degrees to either side")
    shift: float = Field(0.0, ge=0, le=0.9, description="share of the side, along each axis")
    shear: float = Field(0.0, ge=0, le=45, description="degrees to either side")
    zoom: float = Field(0.0, ge=0, le=0.9, description="each axis scaled by 1 - zoom to 1 + zoom")
    flip: bool = Field(False, description="mirrored left to right, every other picture")

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return self.flip or any((self.rotation, self.shift, self.shear, self.zoom))


class TrainConfig(Settings):
    """How a network is trained."""

    epochs: int = Field(10, ge=1, le=1000, description="passes over the training examples; see train.epoch_examples")
    batch_size: int = Field(32, ge=1, le=8192, description="examples a step")
    epoch_examples: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="about so many make an epoch: a train split of fewer is passed over several times; 0: once",
    )
    group_by_length: bool = Field(
        False, description="captions of like length share a batch: less padding where that is cut, TensorFlow on CPUs"
    )
    optimizer: Literal["adam", "adamw"] = Field("adam", description="adamw decays the weights, too")
    learning_rate: float = Field(1e-3, ge=1e-7, le=1, description="highest rate of the schedule")
    schedule: Literal["constant", "cosine"] = Field("constant", description="cosine falls to zero at the last epoch")
    warmup: float = Field(0.0, ge=0, le=0.5, description="share of all steps in which the rate rises from zero")
    tower_rate: float = Field(1.0, ge=1e-4, le=1, description="a pretrained tower's share of the rate of the others")
    thaw: Share = Field(0.0, description="share of all steps before which a pretrained tower's weights do not move")
    weight_decay: float = Field(0.0, ge=0, le=1, description="adamw only: decoupled decay a step, times the rate")
    label_smoothing: float = Field(0.0, ge=0, le=0.5, description="targets are drawn this far towards 0.5")
    clip_norm: float = Field(0.0, ge=0, le=1000, description="limit of the gradients' global norm; 0: none")
    ema: float = Field(0.0, ge=0, lt=1, description="decay a step of the averaged weights that are kept; 0: none")
    loss: Literal["binary_crossentropy", "focal", "asymmetric"] = Field(
        "binary_crossentropy", description="what training lessens; focal, asymmetric: hard labels count more"
    )
    gamma: float = Field(2.0, ge=1, le=8, description="focal, asymmetric: how much easy (negative) labels fade")
    class_weights: Literal["none", "inverse", "dynamic"] = Field(
        "none", description="inverse: rare labels weigh more; dynamic: those that the epoch before got wrong"
    )
    own_losses: float = Field(
        0.0, ge=0, le=10, description="fusion summed only: weight of the picture's and of the caption's own loss"
    )
    alignment: float = Field(
        0.0,
        ge=0,
        le=10,
        description="pictures and captions only: weight of CLIP's contrastive loss between the two of each example",
    )
    teacher: str = Field(
        "none",
        description="folder of a bundle whose calibrated probabilities are mixed into the targets, or none",
    )
    teacher_share: float = Field(
        0.5, ge=0, le=1, description="the teacher's share of each target; 1: the labels do not count"
    )
    prior_start: bool = Field(False, description="logits start at the labels' log odds in training, not at zero")
    augment: AugmentConfig = AugmentConfig()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="what steps are computed in; auto: bfloat16 on GPUs that are made for it. Scores are float32",
    )
    cached_features: bool = Field(
        False,
        description="features of frozen towers are computed once and kept beside the data; of augmentation there is "
        "flip alone, for which those of mirrored pictures are kept too",
    )

    def passes(self, examples: int) -> int:
        """Of an epoch, where the train split has `examples`. A refit, which has validation too, makes as many."""
        return max(1, round(self.epoch_examples / examples))

    @property
    def has_teacher(self) -> bool:
        """Whether another network has a share of the targets."""
        return self.teacher != "none" and self.teacher_share > 0


class TrialConfig(Settings):
    """All that Optuna proposes and a trial runs on: the network and its training."""

    model: ModelConfig
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _features_stay_the_same(self) -> Self:
        image, text = self.model.image, self.model.text
        if self.train.cached_features:
            if image is None and text is not None and text.encoder == "transformer" and not text.frozen:
                raise ValueError("train.cached_features needs text.frozen: true, as the features would change")
            if not (image.frozen if image is not None else text is not None and text.keeps_tower):
                raise ValueError("train.cached_features needs image.frozen: true, as the features would change")
            if self.train.augment.model_copy(update={"flip": False}).active:
                raise ValueError(
                    "train.cached_features goes without augmentation but flip: set the numbers of train.augment to 0"
                )
        return self

    @model_validator(mode="after")
    def _has_two_to_align(self) -> Self:
        if self.train.alignment and self.model.modality != "both":
            raise ValueError(
                f"train.alignment compares pictures with captions, but this model reads {self.model.modality} alone; "
                "set train.alignment to 0, or use modality: both"
            )
        return self


def most_of(settings: type[Settings], name: str) -> int:
    """The largest value that a setting takes."""
    most: int = next(bound.le for bound in settings.model_fields[name].metadata if hasattr(bound, "le"))
    return most


def restrict(config: ModelConfig, modality: Modality) -> ModelConfig:
    """The same network reading only `modality`.

    Raises:
        ValueError: the network has no encoder for it.
    """
    image = config.image if modality != "caption" else None
    text = config.text if modality != "image" else None
    if (modality != "caption" and image is None) or (modality != "image" and text is None):
        raise ValueError(f"modality {modality} was asked for, but this model reads {config.modality}")
    return config.model_copy(update={"image": image, "text": text})


def complaint(error: ValidationError) -> str:
    """The first thing that is wrong, in the words of its rule."""
    return in_words(error.errors()[0]["msg"])


assert set(BackboneName.__args__) == {"compact", "transformer", *BACKBONES}  # type: ignore[attr-defined]
