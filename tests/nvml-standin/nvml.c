/* A stand-in for libnvidia-ml.so.1: the functions that autofit calls, with readings from a script.
 *
 * AUTOFIT_NVML_SCRIPT names a text file, read again at each call; without it, `script` beside the library is read.  One
 * directive a line, `#` begins a comment:
 *
 *   init STATUS                  nvmlInit_v2 answers this status (ok, driver_not_loaded, no_permission, mismatch)
 *   driver VERSION
 *   cuda NUMBER                  the CUDA version that the driver serves, 12080 for 12.8 (which it is without)
 *   gpu INDEX UUID TOTAL_MIB NAME...
 *   mig GPU SLOT UUID TOTAL_MIB NAME...          divides that GPU
 *   use DEVICE FROM USED_MIB                     from reading number FROM (0 is the first) of this device's memory
 *   proc DEVICE FROM PID USED_MIB|na             a process on the device, from that reading on; USED 0 takes it away
 *   util DEVICE PERCENT
 *   fail DEVICE memory|processes|utilization STATUS
 *   set GPU NAME VALUE           a figure of the whole GPU; those that are not set are not supported:
 *                                capability 9.0, persistence, ecc, pending (0 or 1), uncorrected (a count),
 *                                mode (0 shared, 2 prohibited, 3 exclusive), pcie WIDTH/MOST/GENERATION,
 *                                nvlinks UP/ALL, bus 00000000:65:00.0, slowed (bits), mig (1 without any part)
 *
 * DEVICE is `0` for a GPU and `0.1` for slot 1 of GPU 0.  Readings are counted for each device by calls of
 * nvmlDeviceGetMemoryInfo_v2, of which loading the library makes one for each device; the process list belongs to the
 * latest one.  `self` as a PID is the calling process.
 * Built with -DNO_MEMORY_V2 or -DNO_INIT_V2 the library lacks those symbols, as an old driver's does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long u64;
typedef struct { int gpu, mig; } device_t; /* mig is -1 for the whole GPU */
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned pid; u64 used; unsigned gi, ci; } process_t;
typedef struct { unsigned gpu, memory; } utilization_t;

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, SMALL = 7, NO_DRIVER = 9, MISMATCH = 18,
       LOST = 15, UNKNOWN = 999 };
enum { GPUS = 8, SLOTS = 8 };

static device_t handles[GPUS][SLOTS + 1];
static int readings[GPUS][SLOTS + 1];

static int status(const char *word) {
    if (!strcmp(word, "ok")) return OK;
    if (!strcmp(word, "driver_not_loaded")) return NO_DRIVER;
    if (!strcmp(word, "no_permission")) return NO_PERMISSION;
    if (!strcmp(word, "mismatch")) return MISMATCH;
    if (!strcmp(word, "not_supported")) return NOT_SUPPORTED;
    if (!strcmp(word, "lost")) return LOST;
    return UNKNOWN;
}

/* Calls `see` with each directive's words; the last word has the rest of the line when there are more than `most`. */
static void script(void (*see)(char **word, int words, void *state), void *state) {
    const char *path = getenv("AUTOFIT_NVML_SCRIPT");
    char beside[4096], line[512];
    Dl_info own;
    if (!path && dladdr((void *)handles, &own) && strrchr(own.dli_fname, '/')) {
        snprintf(beside, sizeof beside, "%.*s/script", (int)(strrchr(own.dli_fname, '/') - own.dli_fname), own.dli_fname);
        path = beside;
    }
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        char *word[6], *rest = line;
        int words = 0;
        line[strcspn(line, "#\n")] = 0;
        while (words < 6 && *(rest += strspn(rest, " \t"))) {
            word[words++] = rest;
            if (words == 6) break;
            rest += strcspn(rest, " \t");
            if (*rest) *rest++ = 0;
        }
        if (words > 1) see(word, words, state);
    }
    fclose(file);
}

static device_t parse(const char *word) {
    device_t d = { atoi(word), -1 };
    const char *dot = strchr(word, '.');
    if (dot) d.mig = atoi(dot + 1);
    return d;
}
static int same(device_t a, device_t b) { return a.gpu == b.gpu && a.mig == b.mig; }
static int *reading(device_t d) { return &readings[d.gpu][d.mig + 1]; }

typedef struct {
    device_t device;
    const char *what;           /* of `fail` */
    int status, count, slots, utilization, found, cuda;
    u64 total, used;
    char name[96], uuid[96], driver[80];
    process_t process[64];
    int processes;
} state_t;

/* Looks for one value of `set`. */
typedef struct { device_t device; const char *name; char value[64]; int found; } setting_t;

static void find(char **w, int n, void *p) {
    setting_t *s = p;
    if (n < 4 || strcmp(w[0], "set") || strcmp(w[2], s->name) || atoi(w[1]) != s->device.gpu) return;
    snprintf(s->value, sizeof s->value, "%s", w[3]);
    s->found = 1;
}

static setting_t setting(device_t *d, const char *name) {
    setting_t s;
    memset(&s, 0, sizeof s);
    if (d) s.device = *d;
    s.name = name;
    script(find, &s);
    return s;
}

/* One or more numbers with `/` or `.` between them; the number of those that are there, 0 where it is not set. */
static int numbers(device_t *d, const char *name, int *a, int *b, int *c) {
    setting_t s = setting(d, name);
    int ignored, n;
    if (!s.found) return 0;
    n = sscanf(s.value, "%d%*[./]%d%*[./]%d", a, b ? b : &ignored, c ? c : &ignored);
    return n > 0 ? n : 0;
}

static int one(device_t *d, const char *name, unsigned *out) {
    int value;
    if (!numbers(d, name, &value, NULL, NULL)) return NOT_SUPPORTED;
    return *out = (unsigned)value, OK;
}

static void see(char **w, int n, void *p) {
    state_t *s = p;
    int at = *reading(s->device) - 1;
    if (at < 0) at = 0;
    if (!strcmp(w[0], "init") && s->what && !strcmp(s->what, "init")) s->status = status(w[1]);
    if (!strcmp(w[0], "cuda")) s->cuda = atoi(w[1]);
    if (!strcmp(w[0], "driver")) snprintf(s->driver, sizeof s->driver, "%s", w[1]);
    if (!strcmp(w[0], "gpu") && n >= 5) {
        device_t d = { atoi(w[1]), -1 };
        if (d.gpu + 1 > s->count) s->count = d.gpu + 1;
        if (same(d, s->device)) {
            s->found = 1;
            s->total = strtoull(w[3], 0, 10) << 20;
            snprintf(s->uuid, sizeof s->uuid, "%s", w[2]);
            snprintf(s->name, sizeof s->name, "%s%s%s", w[4], n > 5 ? " " : "", n > 5 ? w[5] : "");
        }
    }
    if (!strcmp(w[0], "mig") && n >= 6) {
        device_t d = { atoi(w[1]), atoi(w[2]) };
        if (d.gpu == s->device.gpu && d.mig + 1 > s->slots) s->slots = d.mig + 1;
        if (same(d, s->device)) {
            s->found = 1;
            s->total = strtoull(w[4], 0, 10) << 20;
            snprintf(s->uuid, sizeof s->uuid, "%s", w[3]);
            snprintf(s->name, sizeof s->name, "%s", w[5]);
        }
    }
    if (n < 3 || !same(parse(w[1]), s->device)) return;
    if (!strcmp(w[0], "use") && n >= 4 && atoi(w[2]) <= at) s->used = strtoull(w[3], 0, 10) << 20;
    if (!strcmp(w[0], "util")) s->utilization = atoi(w[2]);
    if (!strcmp(w[0], "fail") && n >= 4 && s->what && !strcmp(s->what, w[2])) s->status = status(w[3]);
    if (!strcmp(w[0], "proc") && n >= 5 && atoi(w[2]) <= at) {
        unsigned pid = !strcmp(w[3], "self") ? (unsigned)getpid() : (unsigned)atoi(w[3]);
        int i = 0;
        while (i < s->processes && s->process[i].pid != pid) i++;
        if (i == 64) return;
        if (i == s->processes) s->processes++;
        s->process[i].pid = pid;
        s->process[i].used = !strcmp(w[4], "na") ? ~0ULL : strtoull(w[4], 0, 10) << 20;
        s->process[i].gi = s->process[i].ci = s->device.mig < 0 ? ~0u : (unsigned)s->device.mig;
    }
}

static state_t look(device_t *d, const char *what) {
    state_t s;
    memset(&s, 0, sizeof s);
    s.device = d ? *d : (device_t){ 0, -1 };
    s.what = what;
    s.utilization = -1;
    script(see, &s);
    return s;
}

#ifndef NO_INIT_V2
int nvmlInit_v2(void) { return look(NULL, "init").status; }
#endif
int nvmlShutdown(void) { return OK; }

int nvmlSystemGetDriverVersion(char *out, unsigned n) {
    state_t s = look(NULL, NULL);
    snprintf(out, n, "%s", s.driver[0] ? s.driver : "570.00");
    return OK;
}
int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    state_t s = look(NULL, NULL);
    return *out = s.cuda ? s.cuda : 12080, OK;
}
int nvmlDeviceGetCount_v2(unsigned *out) { return *out = (unsigned)look(NULL, NULL).count, OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **out) {
    if (index >= GPUS) return INVALID;
    *out = &handles[index][0];
    **out = (device_t){ (int)index, -1 };
    return look(*out, NULL).found ? OK : LOST;
}
int nvmlDeviceGetMigMode(device_t *d, unsigned *current, unsigned *pending) {
    if (d->mig >= 0) return INVALID;
    unsigned on;
    *current = *pending = look(d, NULL).slots > 0 || (one(d, "mig", &on) == OK && on);
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(device_t *d, unsigned *out) { return *out = look(d, NULL).slots ? SLOTS - 1 : 0, OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(device_t *d, unsigned slot, device_t **out) {
    if (slot >= SLOTS) return INVALID;
    *out = &handles[d->gpu][slot + 1];
    **out = (device_t){ d->gpu, (int)slot };
    return look(*out, NULL).found ? OK : NOT_FOUND;
}
int nvmlDeviceGetName(device_t *d, char *out, unsigned n) { return snprintf(out, n, "%s", look(d, NULL).name), OK; }
int nvmlDeviceGetUUID(device_t *d, char *out, unsigned n) { return snprintf(out, n, "%s", look(d, NULL).uuid), OK; }

#ifndef NO_MEMORY_V2
int nvmlDeviceGetMemoryInfo_v2(device_t *d, memory_v2_t *out) {
    if (out->version != (sizeof *out | 2u << 24)) return 25; /* NVML_ERROR_ARGUMENT_VERSION_MISMATCH */
    ++*reading(*d);
    state_t s = look(d, "memory");
    if (s.status) return s.status;
    out->total = s.total;
    out->reserved = s.total / 64;
    out->used = s.used;
    out->free = s.total - s.total / 64 - s.used;
    return OK;
}
#endif

int nvmlDeviceGetComputeRunningProcesses_v3(device_t *d, unsigned *count, process_t *out) {
    state_t s = look(d, "processes");
    unsigned n = 0, room = *count;
    if (s.status) return s.status;
    for (int i = 0; i < s.processes; i++) {
        if (!s.process[i].used) continue;
        if (out && n < room) out[n] = s.process[i];
        n++;
    }
    *count = n;
    return n > room || (!out && n) ? SMALL : OK;
}

int nvmlDeviceGetUtilizationRates(device_t *d, utilization_t *out) {
    state_t s = look(d, "utilization");
    if (s.status || d->mig >= 0 || s.utilization < 0) return s.status ? s.status : NOT_SUPPORTED;
    out->gpu = out->memory = (unsigned)s.utilization;
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(device_t *d, int *major, int *minor) {
    return numbers(d, "capability", major, minor, NULL) == 2 ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetPersistenceMode(device_t *d, unsigned *out) { return one(d, "persistence", out); }
int nvmlDeviceGetEccMode(device_t *d, unsigned *current, unsigned *pending) {
    int status = one(d, "ecc", current);
    if (status == OK) *pending = *current;
    return status;
}
int nvmlDeviceGetTotalEccErrors(device_t *d, int type, int counter, u64 *out) {
    unsigned value = 0;
    int status = one(d, "uncorrected", &value);
    (void)counter;
    return *out = type == 1 ? value : 0, status; /* 1: uncorrected */
}
int nvmlDeviceGetRetiredPagesPendingStatus(device_t *d, unsigned *out) { return one(d, "pending", out); }
int nvmlDeviceGetComputeMode(device_t *d, unsigned *out) { return one(d, "mode", out); }
int nvmlDeviceGetCurrPcieLinkWidth(device_t *d, unsigned *out) {
    int width;
    return numbers(d, "pcie", &width, NULL, NULL) ? (*out = (unsigned)width, OK) : NOT_SUPPORTED;
}
int nvmlDeviceGetMaxPcieLinkWidth(device_t *d, unsigned *out) {
    int width, most;
    return numbers(d, "pcie", &width, &most, NULL) > 1 ? (*out = (unsigned)most, OK) : NOT_SUPPORTED;
}
int nvmlDeviceGetMaxPcieLinkGeneration(device_t *d, unsigned *out) {
    int width, most, generation;
    return numbers(d, "pcie", &width, &most, &generation) > 2 ? (*out = (unsigned)generation, OK) : NOT_SUPPORTED;
}
int nvmlDeviceGetNvLinkState(device_t *d, unsigned link, unsigned *out) {
    int up, all;
    if (numbers(d, "nvlinks", &up, &all, NULL) < 2) return NOT_SUPPORTED;
    return link < (unsigned)all ? (*out = link < (unsigned)up, OK) : INVALID;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t *d, u64 *out) {
    unsigned bits = 0;
    int status = one(d, "slowed", &bits);
    return *out = bits, status;
}

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;

int nvmlDeviceGetPciInfo_v3(device_t *d, pci_t *out) {
    setting_t s = setting(d, "bus");
    if (!s.found) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "%.31s", s.value);
    return OK;
}
