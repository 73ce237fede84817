"""A convolutional image encoder for ordinary processors: the bundled model's.

Plain 3x3 convolutions run near the peak of a CPU's matrix units, forward and backward, where
depthwise ones and many small attention windows do not. A few global attention blocks at stride 32
supply the context; a top-down pathway brings it back to the embedding's stride of 8.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from samplat.model.common import AttentionBlock


class ConvImageEncoder(nn.Module):
    """Pixels to an embedding at stride 8 and finer features at stride 4.

    Args:
        widths: channels at strides 4, 8, 16 and 32.
        depths: residual blocks at strides 4, 8 and 16, attention blocks at stride 32.
        out_channels: channels of the embedding.
        fine_channels: channels of the finer features.
    """

    stride = 8
    input_multiple = 32
    stretch = 11 / 8  # of a square's side: the longest side of a picture seen at its area

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int] = (48, 96, 192, 256),
        depths: tuple[int, int, int, int] = (1, 2, 3, 4),
        out_channels: int = 128,
        fine_channels: int = 32,
    ) -> None:
        super().__init__()
        w4, w8, w16, w32 = widths
        self.stem = nn.Sequential(conv_block(3, 32, stride=2), conv_block(32, w4, stride=2))
        self.stage4 = _stage(w4, depths[0])
        self.down8 = conv_block(w4, w8, stride=2)
        self.stage8 = _stage(w8, depths[1])
        self.down16 = conv_block(w8, w16, stride=2)
        self.stage16 = _stage(w16, depths[2])
        self.down32 = conv_block(w16, w32, stride=2)
        self.stage32 = nn.Sequential(*[AttentionBlock(w32) for _ in range(depths[3])])
        self.lateral32 = nn.Conv2d(w32, out_channels, 1)
        self.lateral16 = nn.Conv2d(w16, out_channels, 1)
        self.lateral8 = nn.Conv2d(w8, out_channels, 1)
        self.smooth16 = conv_block(out_channels, out_channels)
        self.neck = nn.Sequential(
            conv_block(out_channels, out_channels), nn.Conv2d(out_channels, out_channels, 1)
        )
        self.fine = nn.Sequential(
            conv_block(w4, fine_channels), nn.Conv2d(fine_channels, fine_channels, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Embedding and finer features of normalised pixels, and the pixels.

        Args:
            x: (B, 3, H, W), both sides multiples of 32.

        Returns:
            (B, out_channels, H / 8, W / 8), (B, fine_channels, H / 4, W / 4) and x itself, which
            the mask refiner looks at.
        """
        s4 = self.stage4(self.stem(x))
        s8 = self.stage8(self.down8(s4))
        s16 = self.stage16(self.down16(s8))
        s32 = self.stage32(self.down32(s16))
        top = self.smooth16(self.lateral16(s16) + doubled(self.lateral32(s32)))
        return self.neck(self.lateral8(s8) + doubled(top)), self.fine(s4), x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_block(channels, channels)
        self.conv2 = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(self.conv1(x)))


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, normalised over the batch, and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _stage(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*[ResidualBlock(channels) for _ in range(depth)])


def doubled(x: Tensor) -> Tensor:
    """(B, C, H, W) at twice the resolution, each cell four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
