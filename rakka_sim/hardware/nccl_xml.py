"""NCCL's topology files, read: what `NCCL_TOPO_FILE` takes and `NCCL_TOPO_DUMP_FILE` gives; nothing is written here.

Unknown values are taken as NCCL takes them, or as nothing where NCCL would ask the system; each leaves a note in the
machine. Files of cloud providers have no NVLinks, which NCCL adds at run time: see `Machine.with_nvlinks`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from rakka_sim.errors import InputError
from rakka_sim.hardware import models, nvlinks, rates
from rakka_sim.hardware.addresses import normal
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.parts import GPU_CLASSES, SWITCH_CLASS, Cpu, Gpu, NvLink, Pci, Port, SwitchLink
from rakka_sim.hardware.xml_elements import Element, parse_xml

_IDS = ("vendor", "device", "subsystem_vendor", "subsystem_device")
_MEANT = {
    "system": {"cpu"},
    "cpu": {"pci", "nic"},
    "pci": {"pci", "gpu", "nic"},
    "gpu": {"nvlink"},
    "nic": {"net"},
}
_MOST_LANES, _MOST_SM = 32, 999
_NO_NUMBER = 1 << 31  # NCCL reads into 32 bits
# NCCL writes these too; they say how it was set up, or what this package has no model of.
_PASSED_OVER = {"c2c", "coll", "gin", "rma", "pcilink", "dev"}


def read_nccl_xml(text: str | bytes, where: str = "NCCL topology", name: str = "") -> Machine:
    """A machine from the text of a file; raises InputError where it is no NCCL topology at all."""
    root = parse_xml(text, where)
    if root.tag != "system":
        raise InputError(f"{where}, line {root.line}", f"<{root.tag}>", "<system>, the root of an NCCL topology file")
    hosts = sorted({cpu.get("host_hash") for cpu in root.all("cpu")})
    if len(hosts) > 1:
        raise InputError(f"{where}, host_hash", ", ".join(hosts), "the CPUs of one host")
    return _Reader(where).machine(root, name or root.get("name"))


@dataclass
class _Reader:
    """One file being read: notes so far, and what GPUs said of their links, by address."""

    where: str
    notes: list[str] = field(default_factory=list)
    links: dict[str, list[tuple[str, int, bool]]] = field(default_factory=dict)
    indices: dict[str, int] = field(default_factory=dict)
    barred: dict[str, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)

    def machine(self, root: Element, name: str) -> Machine:
        self._unmeant(root)
        cpus = tuple(self._cpu(cpu) for cpu in root.all("cpu"))
        order = self._order(cpus)
        cpus = tuple(replace(cpu, devices=tuple(_numbered(pci, order) for pci in cpu.devices)) for cpu in cpus)
        direct, switched = self._nvlinks(order)
        self.notes.extend(f"{count} x {fault}" if count > 1 else fault for fault, count in self.faults.items())
        return Machine(cpus, direct, switched, self._no_peer(order), name, tuple(self.notes))

    # --- the tree -----------------------------------------------------------------------------------------------

    def _cpu(self, cpu: Element) -> Cpu:
        self._unmeant(cpu)
        numa = self._number(cpu, "numaid", -1)
        if numa < 0:
            self.faults["a CPU without a NUMA id: taken as one node of its own"] += 1
        arch, vendor = cpu.get("arch"), cpu.get("vendor")
        family, model = self._number(cpu, "familyid", 0), self._number(cpu, "modelid", 0)
        if rates.socket(arch, vendor, family, model) is None:
            self.faults["a CPU of no known kind: the slowest link between sockets is assumed"] += 1
        devices = tuple(
            self._pci(child) if child.tag == "pci" else Pci("", ports=self._ports(child))
            for child in cpu.all("pci", "nic")
        )
        return Cpu(numa, devices, arch, vendor, family, model, cpu.get("affinity"))

    def _pci(self, pci: Element) -> Pci:
        self._unmeant(pci)
        bus_id, gpu = normal(pci.get("busid")), next(pci.all("gpu"), None)
        if not bus_id:
            self.faults["a PCI device without an address"] += 1
        made = Pci(
            bus_id,
            pci.get("class"),
            self._speed(pci),
            self._within(pci, "link_width", _MOST_LANES),
            (pci.get(_IDS[0]), pci.get(_IDS[1]), pci.get(_IDS[2]), pci.get(_IDS[3])),
            ports=tuple(port for nic in pci.all("nic") for port in self._ports(nic)),
            children=tuple(self._pci(child) for child in pci.all("pci")),
            host_bridge=self._number(pci, "hostbridge", 0),
        )
        if gpu is not None or made.pci_class.startswith(GPU_CLASSES):
            made = replace(made, gpu=self._gpu(made, gpu))
        elif made.kind == "unknown":
            self.faults["a PCI device without a class: counted as neither GPU nor network card"] += 1
        return made

    def _gpu(self, pci: Pci, gpu: Element | None) -> Gpu:
        model = models.by_pci_ids(pci.ids[0], pci.ids[1])
        if gpu is None:
            return Gpu(-1, model, models.compute_capability(model))
        self._unmeant(gpu)
        model = gpu.get("model") or model
        sm = self._within(gpu, "sm", _MOST_SM) or models.compute_capability(model)
        if gpu.get("dev"):
            self.indices[pci.bus_id] = self._number(gpu, "dev", -1)
        self.barred[pci.bus_id] = gpu.get("nopeer")
        said = self.links.setdefault(pci.bus_id, [])
        for link in gpu.all("nvlink"):
            count = self._number(link, "count", 0)
            if not 1 <= count <= nvlinks.MOST_LINKS:
                taken = min(max(count, 0), nvlinks.MOST_LINKS)
                self.faults[f"an NVLink with count {link.get('count')[:40]!r}: counted as {taken}"] += 1
            is_switch = link.get("tclass").startswith(SWITCH_CLASS)
            said.append((normal(link.get("target")), min(max(count, 0), nvlinks.MOST_LINKS), is_switch))
        return Gpu(-1, model, sm, gpu.get("uuid"))

    def _ports(self, nic: Element) -> tuple[Port, ...]:
        self._unmeant(nic)
        nets = nic.all("net")
        return tuple(Port(net.get("name"), max(0, self._number(net, "speed", 0))) for net in nets)

    def _speed(self, pci: Element) -> str:
        speed = pci.get("link_speed")
        if not rates.pcie_is_known(speed):
            what = f"link_speed {speed!r}, which NCCL does not know" if speed else "a PCI device without link_speed"
            self.faults[f"{what}: counted as PCIe 3"] += 1
        return speed

    def _number(self, element: Element, name: str, default: int) -> int:
        text = element.get(name)
        try:
            number = int(text, 0) if text else default
        except ValueError:
            number = _NO_NUMBER
        if abs(number) >= _NO_NUMBER:
            self.faults[f"{name} {text[:40]!r} of <{element.tag}> is no number: taken as {default}"] += 1
            return default
        return number

    def _within(self, element: Element, name: str, most: int) -> int:
        """A number from 0 on; 0, as if it were not given, for one that cannot be."""
        number = self._number(element, name, 0)
        if 0 <= number <= most:
            return number
        self.faults[f"{name} {number} of <{element.tag}>, which cannot be: taken as unknown"] += 1
        return 0

    def _unmeant(self, element: Element) -> None:
        for child in element.children:
            if child.tag not in _MEANT[element.tag] | _PASSED_OVER:
                self.faults[f"<{child.tag[:40]}> in <{element.tag}>: not read"] += 1

    # --- GPUs by index ------------------------------------------------------------------------------------------

    def _order(self, cpus: tuple[Cpu, ...]) -> dict[str, int]:
        """The index of each GPU, by address: as the file says, else in the order of addresses, as the driver does."""
        devices = [pci for cpu in cpus for top in cpu.devices for pci in top.walk()]
        addresses = [pci.bus_id for pci in devices if pci.gpu is not None]
        if len(set(addresses)) < len(addresses):
            raise InputError(f"{self.where}, busid of GPUs", ", ".join(sorted(addresses)), "addresses, each once")
        said = [self.indices.get(address, -1) for address in addresses]
        if sorted(said) == list(range(len(addresses))):
            return dict(zip(addresses, said, strict=True))
        if self.indices:
            self.notes.append(f"dev of GPUs {sorted(said)}: numbered anew, in this order, then by address")
        ordered = sorted(addresses, key=lambda address: (self.indices.get(address, len(said)), address))
        return {address: index for index, address in enumerate(ordered)}

    def _nvlinks(self, order: dict[str, int]) -> tuple[tuple[NvLink, ...], tuple[SwitchLink, ...]]:
        direct: Counter[tuple[int, int]] = Counter()
        switched: Counter[tuple[int, str]] = Counter()
        for address, said in self.links.items():
            for target, count, is_switch in said:
                if target == address:
                    self.faults["an NVLink of a GPU to itself: not counted"] += 1
                elif target in order:
                    direct[order[address], order[target]] += count
                elif is_switch and count:
                    switched[order[address], target] += count
                elif not is_switch:
                    self.faults["an NVLink to what is no GPU and no switch of this file: not counted"] += 1
        links, notes = nvlinks.agreed(direct)
        self.notes.extend(notes)
        ends = tuple(sorted(SwitchLink(gpu, switch, count) for (gpu, switch), count in switched.items()))
        linked = {link.gpu for link in ends} | {gpu for link in links for gpu in (link.a, link.b)}
        without = sorted(set(order.values()) - linked)
        if linked and without:
            self.notes.append(f"GPUs {', '.join(map(str, without))} report no NVLink, the others do: reached by PCIe")
        return links, ends

    def _no_peer(self, order: dict[str, int]) -> tuple[tuple[int, int], ...]:
        found = set()
        for address, text in self.barred.items():
            for other in filter(None, text.split(",")):
                if other.strip().isdecimal() and int(other) in order.values() and int(other) != order[address]:
                    found.add((min(order[address], int(other)), max(order[address], int(other))))
        return tuple(sorted(found))


def _numbered(pci: Pci, order: dict[str, int]) -> Pci:
    children = tuple(_numbered(child, order) for child in pci.children)
    gpu = pci.gpu and replace(pci.gpu, index=order[pci.bus_id])
    return replace(pci, gpu=gpu, children=children)
