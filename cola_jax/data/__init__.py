"""Text sources, tokenization, packing and batches.

tinyworld, pydocs: built-in corpora. files: the files of a source. text_files, columns, array_records: their
documents by random access; records: records that cannot be read. sources: training and held-out documents. fingerprint:
the identity of a corpus. tokenizers, sentencepieces, huggingface: text <-> ids; lossy_tokenizers: text that a tokenizer
changes. packing: documents -> rows. corpus, prepare, prepared_rows: rows in memory or on disk. pipeline: rows -> batches.
"""
