#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sets off each shipped rule on this kernel by doing the thing, and does the harmless neighbour that must not (tests/kernel/rules.txt).

  rule_tests.py --vfsguard FILE --rules DIR [--hook NAME] [--only RULE]

Needs root. Everything happens in mount and network namespaces of its own, where the directories that are written are overlays over memory: the machine's
own files stay as they are. What was recorded meanwhile is then given to `vfsguard rules test`, which has to say the same.
"""
import argparse
import collections
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
WORK = "/opt/rule-tests"
OVERLAID = ("/etc", "/root", "/home", "/srv", "/var", "/usr")
FRESH = ("/opt", "/dev", "/run", "/tmp")


def read_cases(path):
    cases = collections.OrderedDict()
    rule = None
    for number, line in enumerate(open(path), 1):
        m = re.match(r"(rule|harmless|trigger): (.*)", line)
        if m and m.group(1) == "rule":
            rule = cases.setdefault(m.group(2), {"harmless": [], "trigger": []})
        elif m and rule is not None:
            rule[m.group(1)].append(m.group(2))
        elif line.strip() and not line.startswith("#"):
            sys.exit(f"{path}:{number}: neither rule, harmless nor trigger")
    return cases


def mount(source, target, kind, options=""):
    if ctypes.CDLL(None, use_errno=True).mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()) != 0:
        sys.exit(f"cannot mount {kind} at {target}: {os.strerror(ctypes.get_errno())}")


def enter_sandbox(keep):
    """Namespaces of its own; `keep`: files from below directories that are hidden, by the names that they then have."""
    clone_newns, clone_newnet, ms_rec, ms_private = 0x20000, 0x40000000, 0x4000, 1 << 18
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(clone_newns | clone_newnet) != 0 or libc.mount(b"none", b"/", None, ms_rec | ms_private, None) != 0:
        sys.exit(f"cannot have namespaces of its own: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False, stderr=subprocess.DEVNULL)
    memory = "/mnt"
    mount("none", memory, "tmpfs", "mode=755")
    os.mkdir(f"{memory}/kept")
    for source, name in keep:
        (shutil.copytree if os.path.isdir(source) else shutil.copy)(source, f"{memory}/kept/{name}")
    for directory in OVERLAID:
        upper, work = f"{memory}/upper{directory}", f"{memory}/work{directory}"
        os.makedirs(upper)
        os.makedirs(work)
        mount("overlay", directory, "overlay", f"lowerdir={directory},upperdir={upper},workdir={work}")
    for directory in FRESH:
        mount("none", directory, "tmpfs", "mode=1777" if directory == "/tmp" else "mode=755")
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9), ("mem", 1)):
        os.mknod(f"/dev/{name}", 0o20666, os.makedev(1, minor))
        os.chmod(f"/dev/{name}", 0o666 if name != "mem" else 0o600)
    os.mknod("/dev/sdz", 0o60600, os.makedev(259, 4000))
    os.symlink("/proc/self/fd", "/dev/fd")
    os.mkdir("/dev/shm")
    os.makedirs(f"{WORK}/bin")
    return f"{memory}/kept"


def write(path, text="x\n"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def furnish():
    """What the cases read and change."""
    for path in ("/etc/shadow", "/etc/gshadow", "/etc/krb5.keytab", "/etc/security/opasswd", "/etc/security/limits.conf", "/etc/crontab", "/etc/sudoers.d/README", "/etc/ld.so.conf",
                 "/etc/pam.d/common-auth", "/etc/modules", "/etc/rsyslog.conf", "/etc/nftables.conf", "/etc/ssh/sshd_config", "/etc/ssh/ssh_host_ed25519_key",
                 "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/hosts", "/etc/resolv.conf", "/home/u/.aws/credentials", "/home/u/.aws/config", "/home/u/.kube/config",
                 "/home/u/.docker/config.json", "/home/u/config.json", "/home/u/cookies", "/home/u/.mozilla/firefox/p/logins.json", "/home/u/.local/share/keyrings/login.keyring",
                 "/home/u/.gnupg/private-keys-v1.d/k.key", "/home/u/.gnupg/pubring.kbx", "/home/u/.password-store/mail.gpg", "/home/u/.netrc", "/home/u/.bash_history",
                 "/home/u/.zsh_history", "/home/v/.bash_history", "/home/w/.bash_history", "/home/u/.ssh/authorized_keys", "/home/u/.ssh/config", "/home/u/.bashrc",
                 "/home/u/flagged", "/var/log/a.log", "/var/log/b.log", "/srv/data/.canary", f"{WORK}/file", f"{WORK}/some.log", f"{WORK}/.hidden"):
        if not os.path.exists(path) or path.startswith(("/home", "/srv", WORK)):
            if os.path.islink(path):
                os.unlink(path)
            write(path)
    for path in ("/etc/shadow", "/etc/gshadow"):
        os.chmod(path, 0o600)
    for directory in ("/etc/ld.so.conf.d", "/etc/udev/rules.d", "/etc/update-motd.d", "/etc/apt/apt.conf.d", "/etc/rsyslog.d", "/etc/apparmor.d", "/etc/vfsguard", "/etc/init.d",
                      "/etc/cron.d", "/etc/systemd/system", "/var/spool/cron/crontabs", "/var/spool/cron/atjobs", "/usr/lib/modules", "/usr/lib/x86_64-linux-gnu/security",
                      "/usr/lib/python3/dist-packages", "/usr/share/dbus-1/system-services", "/usr/local/share/ca-certificates", "/home/u/.config/autostart",
                      "/srv/repo/.git/hooks", "/srv/r", "/srv/d"):
        os.makedirs(directory, exist_ok=True)
    for i in range(200):
        write(f"/srv/d/{i}")
        if i < 41:
            write(f"/srv/r/{i}")
        if 0 < i <= 20:
            write(f"/srv/data/{i}")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/home/u/.ssh/id_ed25519"], check=False)
    if not os.path.exists("/home/u/.ssh/id_ed25519"):
        write("/home/u/.ssh/id_ed25519")
        write("/home/u/.ssh/id_ed25519.pub")


def run(script, environment):
    subprocess.run(["bash", "-c", "\n".join(script)], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)


def mark(kind, rule):
    with open(f"{WORK}/marks/{kind}.{rule}"):
        pass


class Agent:
    def __init__(self, args, kept):
        write(f"{WORK}/marker.yml", "title: marker\nname: marker\nlogsource: { category: file_access }\ndetection: { s: { TargetFilename|startswith: " + WORK +
              "/marks/ }, condition: s }\nmessage: \"%TargetFilename%\"\nlevel: info\n")
        write(f"{WORK}/policy.yaml", "version: 1\nrules:\n  - { name: all, paths: ['/**'], severity: info }\n")
        self.rules = ["--rules", f"{kept}/rules", "--rules", f"{WORK}/marker.yml"]
        self.out = f"{WORK}/events.jsonl"
        self.process = subprocess.Popen([f"{kept}/vfsguard", "run", "--hook", args.hook, "--config", f"{WORK}/policy.yaml", "--control", "off", "--protected", "/nowhere", "--format",
                                         "json", "--output", self.out, "--buffer", "64M", *self.rules], stderr=subprocess.PIPE, text=True)
        self.said = ""
        while "ready " not in self.said:
            line = self.process.stderr.readline()
            if not line:
                sys.exit(f"the agent did not start: {self.said}")
            self.said += line

    def stop(self):
        time.sleep(0.3)
        self.process.send_signal(signal.SIGINT)
        self.said += self.process.communicate(timeout=120)[1]


def alerts_of(lines):
    """In their order: (time, rules, record)."""
    for line in lines:
        record = json.loads(line)
        if "rule" in record:
            yield record, set(record.get("rules", [record["rule"]]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vfsguard", required=True)
    parser.add_argument("--rules", required=True)
    parser.add_argument("--hook", default="auto")
    parser.add_argument("--only")
    args = parser.parse_args()
    cases = read_cases(f"{HERE}/rules.txt")
    listed = [json.loads(line) for line in subprocess.run([args.vfsguard, "rules", "list", "--json", args.rules], stdout=subprocess.PIPE, check=True).stdout.splitlines()]
    telling = [r["rule"] for r in listed if not r["silent"]]
    missing = sorted(set(telling) ^ set(cases))
    if missing:
        sys.exit(f"rules and cases differ: {', '.join(missing)}")
    if args.only:
        cases = {name: case for name, case in cases.items() if re.search(args.only, name)}
    shell = shutil.which("bash")
    kept = enter_sandbox([(args.vfsguard, "vfsguard"), (args.rules, "rules"), (shell, "shell")])
    furnish()
    os.mkdir(f"{WORK}/marks")
    for text in [line for case in cases.values() for script in case.values() for line in script]:
        for name in re.findall(r'"\$bin/([\w-]+)" -c', text):
            if not os.path.exists(f"{WORK}/bin/{name}"):
                shutil.copy(f"{kept}/shell", f"{WORK}/bin/{name}")
    for name in cases:
        for kind in ("harmless", "trigger", "end"):
            write(f"{WORK}/marks/{kind}.{name}", "")
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "bin": f"{WORK}/bin", "work": WORK,
                   "as": "setpriv --reuid 65534 --regid 65534 --clear-groups", "py": "/usr/bin/python3 -c", "LC_ALL": "C"}
    agent = Agent(args, kept)
    for name, case in cases.items():
        for kind in ("harmless", "trigger"):
            mark(kind, name)
            run(case[kind], environment)
        mark("end", name)
    agent.stop()

    seen = collections.defaultdict(set)
    where = None
    live = []
    for record, rules in alerts_of(open(agent.out)):
        if "marker" in rules:
            kind, name = os.path.basename(record["path"]).split(".", 1)
            where = None if kind == "end" else (name, kind)
            continue
        live.append((record["rule"], record["message"]))
        if where:
            seen[where] |= rules
    failed = 0
    for name in cases:
        set_off, spoke = name in seen[name, "trigger"], name in seen[name, "harmless"]
        if not set_off or spoke:
            failed += 1
            print(f"FAILED  {name}: {'' if set_off else 'not set off; '}{'set off by the harmless neighbour' if spoke else ''} (seen: {sorted(seen[name, 'trigger'])})")
    lost = re.search(r"emitted=(\d+) lost=(\d+)", agent.said)
    print(f"    {len(cases)} rules, {len(live)} alerts among {lost.group(1)} events, {lost.group(2)} lost")

    said = subprocess.run([f"{kept}/vfsguard", "rules", "test", *[w for w in agent.rules if w != "--rules"], "--events", agent.out, "--json"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    replayed = [(r["rule"], r["message"]) for r, rules in alerts_of(said.stdout.splitlines()) if "marker" not in rules]
    if replayed != live:
        failed += 1
        more, fewer = collections.Counter(replayed), collections.Counter(live)
        print(f"FAILED  recorded events: {len(replayed)} alerts, live {len(live)}; only recorded {list((more - fewer).items())[:5]}, only live {list((fewer - more).items())[:5]}\n{said.stderr[-300:]}")
    print(f"{len(cases) + 1 - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
