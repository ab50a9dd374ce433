"""Subnetworks of a pretrained network, at several image sizes."""
