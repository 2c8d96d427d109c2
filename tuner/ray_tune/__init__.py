"""The one seam to Ray Tune."""
