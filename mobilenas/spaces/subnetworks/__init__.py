"""The networks inside a network that has weights, at several image sizes."""
