"""Where training data comes from: one reader per format, all of them a `PictureSource`."""
