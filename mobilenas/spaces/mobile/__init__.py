"""Chains of inverted residuals, as MobileNetV2 and V3 are."""
