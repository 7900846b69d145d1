"""Recommenders that OneRec is measured beside: popularity, item-KNN, SASRec, two towers."""
