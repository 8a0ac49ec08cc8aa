"""From raw text to batches: documents, sentences, vocabulary, pairs, rows, masks. Knows no model."""
