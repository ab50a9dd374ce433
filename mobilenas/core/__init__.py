"""What every package uses: errors, settings, files, progress, images. Imports nothing."""
