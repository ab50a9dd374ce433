"""The mobile family: chains of inverted residuals, as in MobileNetV2 and V3."""
