"""The colours of classes and designs, the same in every picture.

They can be told apart by people who see fewer colours: the classes' are those of Okabe and Ito, lightened where text
stands on them.
"""

from pyvmm.report.classes import BOOT, CONFIG, DEVICES, HYPERVISOR, LOAD, PREPARE, TOOLSTACK, XENSTORE

COLOURS = {
    CONFIG: "#f0e442",
    HYPERVISOR: "#e69f00",
    XENSTORE: "#e07a5f",
    DEVICES: "#56b4e9",
    LOAD: "#2fb394",
    TOOLSTACK: "#d38fb8",
    BOOT: "#b9bdc4",
    PREPARE: "#8f8a7c",
}
"""Of the classes (`pyvmm.report.classes`)."""

DESIGN_COLOURS = ("#222222", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#7f7f00", "#56b4e9", "#8c564b")
"""Of designs, in the order in which they are shown."""

__all__ = ["COLOURS", "DESIGN_COLOURS"]
