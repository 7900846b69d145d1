"""OneRec: pathways, encoder, decoder, mixture of experts, beam search."""
