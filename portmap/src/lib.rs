//! Published ports as nf_tables map elements, at constant cost.
