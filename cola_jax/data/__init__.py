"""Where text comes from and how it becomes batches.

tinyworld, pydocs: corpora that are built in. formats, sources: documents by random access, training and held-out.
tokenizers, sentencepieces: text <-> ids. packing: documents -> rows. corpus, prepare: rows in memory or on disk.
pipeline: rows -> batches.
"""
