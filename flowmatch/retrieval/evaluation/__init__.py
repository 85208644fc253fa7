"""Evaluation of retrieval: views of photographs, and the protocol of Oxford and Paris."""
