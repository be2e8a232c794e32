"""Where text comes from and how it becomes batches.

tinyworld, pydocs: corpora that are built in. files: which files a source names. text_files, columns, array_records: their
documents by random access; records: what is no record. sources: training and held-out documents. fingerprint: what a corpus is.
tokenizers, sentencepieces, huggingface: text <-> ids; lossy_tokenizers: what a tokenizer changes. packing: documents -> rows.
corpus, prepare, prepared_rows: rows in memory or on disk. pipeline: rows -> batches.
"""
