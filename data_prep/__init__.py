"""Files to arrays, once: records, captions, labels, splits, pictures, the prepared store and its batches."""
