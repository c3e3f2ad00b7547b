// NVIDIA's driver, run-time compiler, cuBLASLt and cuDNN as far as the CUDA backend calls them, on the CPU, under one file's four names.
// What a stream is given is done as late as it may be: when something waits for it. So memory that is given back or written too soon
// shows, as do calls that a real driver refuses (no context, waiting for a stream that is recorded). Mistakes are said, and end the process.
//
// The run-time compiler hands the kernels to g++ with the emulation's header, and its machine code is the path of what came out. cuBLASLt
// and cuDNN compute in plain loops, by what their descriptors say: the numbers of attributes are those of NVIDIA's headers.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unistd.h>
#include <vector>

typedef std::function<void()> Work;
typedef unsigned long long Address;
#define API extern "C" __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, STREAM_CAPTURE_UNSUPPORTED = 900 };

static std::recursive_mutex all;
#define ONE_AT_A_TIME std::lock_guard<std::recursive_mutex> guard(all)

[[noreturn]] static void mistake(const char* what) {
    std::fprintf(stderr, "a mistake in the use of CUDA: %s\n", what);
    std::abort();
}

struct Graph {
    std::vector<Work> work;
};
struct Stream {
    std::list<Work> pending;
    size_t done = 0;
    Graph* recording = nullptr;

    void add(Work work) {
        if (recording) {
            recording->work.push_back(std::move(work));
        } else {
            pending.push_back(std::move(work));
        }
    }
    size_t given() const { return done + pending.size(); }
    int finish() { return finish(given()); }
    // Does what was given first.
    int finish(size_t count) {
        if (recording) return STREAM_CAPTURE_UNSUPPORTED;
        while (done < count) {
            pending.front()();
            pending.pop_front();
            ++done;
        }
        return SUCCESS;
    }
};
struct Event {
    Stream* stream = nullptr;
    size_t given = 0;
};

static int context;
static int retained;
static thread_local void* current;
static std::list<Stream*> streams;
static std::map<Address, size_t> memory, pinned;
static size_t things; // events, graphs, modules, descriptors

#define NEEDS_CONTEXT \
    ONE_AT_A_TIME;    \
    if (current != &context) return INVALID_CONTEXT

static bool lies_in(const std::map<Address, size_t>& regions, Address at, size_t bytes) {
    auto after = regions.upper_bound(at);
    if (after == regions.begin()) return false;
    auto region = std::prev(after);
    return at + bytes <= region->first + region->second;
}

static int finish_all() {
    for (Stream* stream : streams) {
        if (int status = stream->finish()) return status;
    }
    return SUCCESS;
}

// The driver.

API int cuInit(unsigned) { return SUCCESS; }
API int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
API int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
API int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : 101; }
API int cuDeviceGetName(char* name, int len, int) { return std::snprintf(name, len, "no GPU at all"), SUCCESS; }
API int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = (size_t)8 << 30, SUCCESS; }
API int cuDeviceGetAttribute(int* value, int attribute, int) {
    // The compute capability is 9.0.
    *value = attribute == 75 ? 9 : 0;
    return SUCCESS;
}
API int cuDevicePrimaryCtxRetain(void** to, int) {
    ONE_AT_A_TIME;
    ++retained;
    *to = &context;
    return SUCCESS;
}
API int cuDevicePrimaryCtxRelease_v2(int) {
    ONE_AT_A_TIME;
    if (--retained == 0) {
        if (!memory.empty()) mistake("memory of the device is not given back");
        if (!pinned.empty()) mistake("pinned memory is not given back");
        if (!streams.empty()) mistake("a stream is not given back");
        if (things) mistake("an event, a graph, a module or a descriptor is not given back");
    }
    return SUCCESS;
}
API int cuCtxGetCurrent(void** to) { return *to = current, SUCCESS; }
API int cuCtxSetCurrent(void* to) { return current = to, SUCCESS; }
API int cuCtxSynchronize() {
    NEEDS_CONTEXT;
    return finish_all();
}
API int cuGetErrorName(int status, const char** text) {
    static thread_local char name[32];
    std::snprintf(name, sizeof name, "status %d", status);
    return *text = name, SUCCESS;
}
API int cuGetErrorString(int status, const char** text) { return cuGetErrorName(status, text); }

API int cuStreamCreate(Stream** stream, unsigned) {
    NEEDS_CONTEXT;
    streams.push_back(*stream = new Stream);
    return SUCCESS;
}
API int cuStreamSynchronize(Stream* stream) {
    NEEDS_CONTEXT;
    return stream->finish();
}
API int cuStreamDestroy_v2(Stream* stream) {
    NEEDS_CONTEXT;
    int status = stream->finish();
    streams.remove(stream);
    delete stream;
    return status;
}
API int cuStreamBeginCapture_v2(Stream* stream, int) {
    NEEDS_CONTEXT;
    if (stream->recording) return INVALID_VALUE;
    ++things;
    stream->recording = new Graph;
    return SUCCESS;
}
API int cuStreamEndCapture(Stream* stream, Graph** graph) {
    NEEDS_CONTEXT;
    if (!stream->recording) return INVALID_VALUE;
    *graph = stream->recording;
    stream->recording = nullptr;
    return SUCCESS;
}
API int cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
    NEEDS_CONTEXT;
    ++things;
    *executable = new Graph(*graph);
    return SUCCESS;
}
API int cuGraphLaunch(Graph* graph, Stream* stream) {
    NEEDS_CONTEXT;
    for (const Work& work : graph->work) stream->add(work);
    return SUCCESS;
}
API int cuGraphDestroy(Graph* graph) {
    NEEDS_CONTEXT;
    --things;
    delete graph;
    return SUCCESS;
}
API int cuGraphExecDestroy(Graph* graph) { return cuGraphDestroy(graph); }

API int cuEventCreate(Event** event, unsigned) {
    NEEDS_CONTEXT;
    ++things;
    *event = new Event;
    return SUCCESS;
}
API int cuEventRecord(Event* event, Stream* stream) {
    NEEDS_CONTEXT;
    if (stream->recording) return STREAM_CAPTURE_UNSUPPORTED;
    event->stream = stream;
    event->given = stream->given();
    return SUCCESS;
}
API int cuEventSynchronize(Event* event) {
    NEEDS_CONTEXT;
    return event->stream ? event->stream->finish(event->given) : SUCCESS;
}
API int cuEventDestroy_v2(Event* event) {
    NEEDS_CONTEXT;
    --things;
    delete event;
    return SUCCESS;
}

API int cuMemGetInfo_v2(size_t* free, size_t* total) {
    NEEDS_CONTEXT;
    return *free = *total = (size_t)8 << 30, SUCCESS;
}
API int cuMemAlloc_v2(Address* to, size_t bytes) {
    NEEDS_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    void* place = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!place) return 2;
    // What is read before it is written shows: NaN.
    std::memset(place, 0xFF, bytes);
    memory[*to = (Address)place] = bytes;
    return SUCCESS;
}
API int cuMemFree_v2(Address place) {
    NEEDS_CONTEXT;
    if (int status = finish_all()) return status;
    auto found = memory.find(place);
    if (found == memory.end()) mistake("memory is given back that was not taken");
    std::memset((void*)place, 0xFF, found->second);
    std::free((void*)place);
    memory.erase(found);
    return SUCCESS;
}
API int cuMemHostAlloc(void** to, size_t bytes, unsigned) {
    NEEDS_CONTEXT;
    *to = std::malloc(bytes);
    pinned[(Address)*to] = bytes;
    return SUCCESS;
}
API int cuMemFreeHost(void* place) {
    NEEDS_CONTEXT;
    for (Stream* stream : streams) {
        if (!stream->pending.empty()) mistake("pinned memory is given back before it has been waited for");
    }
    if (!pinned.erase((Address)place)) mistake("pinned memory is given back that was not taken");
    std::free(place);
    return SUCCESS;
}
API int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream* stream) {
    NEEDS_CONTEXT;
    if (!lies_in(memory, to, bytes)) mistake("a copy to what is no memory of the device");
    if (stream->recording) mistake("what is copied from the host would be copied again and again");
    if (lies_in(pinned, (Address)from, bytes)) {
        stream->add([=] { std::memcpy((void*)to, from, bytes); });
    } else {
        std::string data((const char*)from, bytes);
        stream->add([=] { std::memcpy((void*)to, data.data(), bytes); });
    }
    return SUCCESS;
}
API int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream* stream) {
    NEEDS_CONTEXT;
    if (!lies_in(memory, from, bytes)) mistake("a copy from what is no memory of the device");
    stream->add([=] { std::memcpy(to, (void*)from, bytes); });
    return lies_in(pinned, (Address)to, bytes) ? SUCCESS : stream->finish();
}
API int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Stream* stream) {
    NEEDS_CONTEXT;
    if (!lies_in(memory, to, bytes)) mistake("what is no memory of the device is set");
    stream->add([=] { std::memset((void*)to, value, bytes); });
    return SUCCESS;
}

API int cuModuleLoadData(void** module, const void* image) {
    NEEDS_CONTEXT;
    *module = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
    if (!*module) return std::fprintf(stderr, "%s\n", dlerror()), 200;
    ++things;
    return SUCCESS;
}
API int cuModuleUnload(void*) {
    NEEDS_CONTEXT;
    // It stays loaded: others may have the same.
    if (int status = finish_all()) return status;
    --things;
    return SUCCESS;
}
API int cuModuleGetFunction(void** function, void* module, const char* name) {
    NEEDS_CONTEXT;
    *function = dlsym(module, ("bound_" + std::string(name)).c_str());
    return *function ? SUCCESS : 500;
}
API int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z,
                       unsigned shared, Stream* stream, void** arguments, void**) {
    NEEDS_CONTEXT;
    if (!x || !y || !z || y > 65535 || z > 65535 || threads_y != 1 || threads_z != 1 || shared) return INVALID_VALUE;
    const unsigned grid[3] = {x, y, z};
    Work* work = ((Work * (*)(const unsigned*, unsigned, void**)) function)(grid, threads, arguments);
    stream->add(*work);
    delete work;
    return SUCCESS;
}

// The run-time compiler.

// What makes a kernel one with barriers; without one its threads need no fibres.
static const char* const BARRIERS[] = {"__syncthreads(", "block_sum(", "block_max(", "sum_rows<", "fold(", "transpose(", "multiply"};

struct Program {
    std::string source, path;
};
API int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0; }
API int nvrtcGetNumSupportedArchs(int* count) { return *count = 2, 0; }
API int nvrtcGetSupportedArchs(int* architectures) { return architectures[0] = 80, architectures[1] = 90, 0; }
API int nvrtcCreateProgram(Program** program, const char* source, const char*, int, const char* const*, const char* const*) {
    *program = new Program{source, ""};
    return 0;
}
API int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    if (count < 1 || std::string(options[0]) != "--gpu-architecture=sm_90") mistake("code is made for another device");
    static int number;
    std::string base = std::string(std::getenv("FAKE_NVIDIA")) + "/kernels-" + std::to_string(getpid()) + "-" + std::to_string(number++);
    std::string text = "#include \"emulation.h\"\n" + program->source + R"(
#include <functional>
#include <tuple>
template <class... A> static void* bind(void (*kernel)(A...), bool barriers, const unsigned* grid, unsigned threads, void** arguments) {
    unsigned x = grid[0], y = grid[1], z = grid[2];
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
        return new std::function<void()>([=, values = std::tuple<A...>(*(A*)arguments[I]...)] {
            const unsigned sizes[3] = {x, y, z};
            run_grid(sizes, threads, barriers, [&] { std::apply(kernel, values); });
        });
    }(std::index_sequence_for<A...>{});
}
)";
    const std::string before = "__global__ void ";
    for (size_t at = program->source.find(before); at != std::string::npos; at = program->source.find(before, at + 1)) {
        size_t start = at + before.size();
        std::string name = program->source.substr(start, program->source.find('(', start) - start);
        std::string body = program->source.substr(start, program->source.find("\n}\n", start) - start);
        bool barriers = false;
        for (const char* call : BARRIERS) barriers |= body.find(call) != std::string::npos;
        text += "extern \"C\" void* bound_" + name + "(const unsigned* grid, unsigned threads, void** arguments) { return bind(" + name +
                (barriers ? ", true" : ", false") + ", grid, threads, arguments); }\n";
    }
    FILE* file = std::fopen((base + ".cpp").c_str(), "w");
    if (!file) return 1;
    std::fputs(text.c_str(), file);
    std::fclose(file);
    program->path = base + ".so";
    std::string command = "g++ -std=c++20 -O1 -U_FORTIFY_SOURCE -ffp-contract=off -fno-strict-aliasing -w -shared -fPIC -I " +
                          std::string(std::getenv("FAKE_NVIDIA")) + " -o " + program->path + " " + base + ".cpp";
    return std::system(command.c_str()) == 0 ? 0 : 6;
}
API int nvrtcGetProgramLogSize(Program*, size_t* len) { return *len = 1, 0; }
API int nvrtcGetProgramLog(Program*, char* log) { return *log = 0; }
API int nvrtcGetCUBINSize(Program* program, size_t* len) { return *len = program->path.size() + 1, 0; }
API int nvrtcGetCUBIN(Program* program, char* code) { return std::strcpy(code, program->path.c_str()), 0; }
API int nvrtcDestroyProgram(Program** program) {
    delete *program;
    return *program = nullptr, 0;
}

// cuBLASLt: matrices of columns.

enum { FLOAT = 0, BF16 = 14, COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77, NOT_SUPPORTED = 15 };

struct Layout {
    int type;
    unsigned long long rows, columns;
    long long leading;
    int batch = 1;
    long long stride = 0;

    float read(const void* data, size_t index) const {
        if (type == FLOAT) return ((const float*)data)[index];
        unsigned bits = (unsigned)((const unsigned short*)data)[index] << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    void write(void* data, size_t index, float value) const {
        if (type == FLOAT) {
            ((float*)data)[index] = value;
            return;
        }
        unsigned bits;
        std::memcpy(&bits, &value, 4);
        ((unsigned short*)data)[index] = (unsigned short)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
    size_t bytes() const {
        size_t elements = (size_t)(batch - 1) * stride + (columns - 1) * leading + rows;
        return elements * (type == FLOAT ? 4 : 2);
    }
};
struct Description {
    int transposed[2] = {0, 0};
};
struct Preference {
    size_t workspace = 0;
    unsigned alignments[4] = {256, 256, 256, 256};
};
struct Found {
    unsigned long long algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

API size_t cublasLtGetVersion() { return 130000; }
API int cublasLtCreate(void** handle) { return *handle = &context, current == &context ? 0 : 1; }
API int cublasLtDestroy(void*) { return 0; }
API int cublasLtMatmulDescCreate(Description** description, int compute, int scale) {
    if ((compute != COMPUTE_32F && compute != COMPUTE_32F_FAST_TF32) || scale != FLOAT) return NOT_SUPPORTED;
    *description = new Description;
    return 0;
}
API int cublasLtMatmulDescSetAttribute(Description* description, int attribute, const void* value, size_t bytes) {
    if ((attribute != 3 && attribute != 4) || bytes != 4) mistake("an attribute of a product");
    description->transposed[attribute - 3] = *(const int*)value;
    return 0;
}
API int cublasLtMatmulDescDestroy(Description* description) { return delete description, 0; }
API int cublasLtMatrixLayoutCreate(Layout** layout, int type, unsigned long long rows, unsigned long long columns, long long leading) {
    *layout = new Layout{type, rows, columns, leading};
    return 0;
}
API int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t bytes) {
    if (attribute == 5 && bytes == 4) {
        layout->batch = *(const int*)value;
    } else if (attribute == 6 && bytes == 8) {
        layout->stride = *(const long long*)value;
    } else {
        mistake("an attribute of a matrix");
    }
    return 0;
}
API int cublasLtMatrixLayoutDestroy(Layout* layout) { return delete layout, 0; }
API int cublasLtMatmulPreferenceCreate(Preference** preference) { return *preference = new Preference, 0; }
API int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    if (attribute == 1 && bytes == 8) {
        preference->workspace = *(const size_t*)value;
    } else if (attribute >= 5 && attribute <= 8 && bytes == 4) {
        preference->alignments[attribute - 5] = *(const unsigned*)value;
    } else if (attribute != 3 || bytes != 4) {
        mistake("an attribute of a preference");
    }
    return 0;
}
API int cublasLtMatmulPreferenceDestroy(Preference* preference) { return delete preference, 0; }
API int cublasLtMatmulAlgoGetHeuristic(void*, Description*, Layout* a, Layout*, Layout*, Layout*, Preference* preference, int, Found* found,
                                       int* count) {
    // Some it does not take.
    *count = a->rows == 17 || a->columns == 17 ? 0 : 1;
    if (*count == 0) return NOT_SUPPORTED;
    *found = Found{};
    found->workspace = preference->workspace;
    for (int i = 0; i < 4; ++i) found->algorithm[i] = preference->alignments[i];
    return 0;
}
API int cublasLtMatmul(void*, Description* description, const void* alpha, const void* a, Layout* a_layout, const void* b, Layout* b_layout,
                       const void* beta, const void* c, Layout*, void* d, Layout* d_layout, const unsigned long long* algorithm, void* workspace,
                       size_t workspace_bytes, Stream* stream) {
    ONE_AT_A_TIME;
    Layout x = *a_layout, y = *b_layout, z = *d_layout;
    bool x_turned = description->transposed[0], y_turned = description->transposed[1];
    size_t rows = x_turned ? x.columns : x.rows, depth = x_turned ? x.rows : x.columns, columns = y_turned ? y.rows : y.columns;
    if (depth != (y_turned ? y.columns : y.rows) || z.rows != rows || z.columns != columns || x.batch != z.batch || y.batch != z.batch) {
        mistake("a product of matrices that do not fit");
    }
    const void* places[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) {
        if ((Address)places[i] % algorithm[i]) mistake("a matrix is not aligned as was promised");
    }
    const size_t sizes[] = {x.bytes(), y.bytes(), z.bytes(), z.bytes()};
    for (int i = 0; i < 4; ++i) {
        if (!lies_in(memory, (Address)places[i], sizes[i])) mistake("a matrix that is not in the device's memory");
    }
    if (!lies_in(memory, (Address)workspace, workspace_bytes)) mistake("a workspace that is not in the device's memory");
    float by = *(const float*)alpha, kept = *(const float*)beta;
    stream->add([=] {
        for (int n = 0; n < z.batch; ++n) {
            for (size_t column = 0; column < columns; ++column) {
                for (size_t row = 0; row < rows; ++row) {
                    double sum = 0;
                    for (size_t k = 0; k < depth; ++k) {
                        size_t in_x = n * x.stride + (x_turned ? row * x.leading + k : k * x.leading + row);
                        size_t in_y = n * y.stride + (y_turned ? k * y.leading + column : column * y.leading + k);
                        sum += (double)x.read(a, in_x) * y.read(b, in_y);
                    }
                    size_t at = n * z.stride + column * z.leading + row;
                    z.write(d, at, (float)(by * sum + (kept ? kept * z.read(c, at) : 0.0)));
                }
            }
        }
    });
    return 0;
}

// cuDNN: graphs of a convolution, forward perhaps with a sum after it.

enum { KIND_FORWARD = 10, KIND_DATA = 12, KIND_POINTWISE = 13, KIND_GRAPH = 15 };
enum { TYPE_BOOLEAN = 2, TYPE_INT64 = 3, TYPE_FLOAT = 4, TYPE_ADDRESS = 6, TYPE_DESCRIPTOR = 15 };
enum { DATA_FLOAT = 0, DATA_BF16 = 9 };

struct State;
typedef std::shared_ptr<State> Shared;
struct Attribute {
    int type = -1;
    std::string bytes;
    std::vector<Shared> parts;
};
// What a descriptor refers to: others that are made of it keep it.
struct State {
    int kind;
    bool finished = false;
    std::map<int, Attribute> attributes;

    const Attribute& get(int name, int type) const {
        auto found = attributes.find(name);
        if (found == attributes.end() || found->second.type != type) mistake("an attribute of a descriptor is missing");
        return found->second;
    }
    template <class T> std::vector<T> values(int name, int type) const {
        const std::string& bytes = get(name, type).bytes;
        const T* first = (const T*)bytes.data();
        return std::vector<T>(first, first + bytes.size() / sizeof(T));
    }
    std::vector<long long> integers(int name) const { return values<long long>(name, TYPE_INT64); }
    Shared part(int name) const { return get(name, TYPE_DESCRIPTOR).parts.at(0); }
};
struct Descriptor {
    Shared state;
};

static size_t size_of(int type) {
    switch (type) {
        case TYPE_BOOLEAN: return 1;
        case 0: case TYPE_INT64: case TYPE_ADDRESS: case TYPE_DESCRIPTOR: return 8;
        default: return 4;
    }
}

API size_t cudnnGetVersion() { return 91000; }
API size_t cudnnGetCudartVersion() { return 13000; }
API int cudnnCreate(Stream*** handle) { return *handle = new Stream*(nullptr), current == &context ? 0 : 1; }
API int cudnnDestroy(Stream** handle) { return delete handle, 0; }
API int cudnnSetStream(Stream** handle, Stream* stream) { return *handle = stream, 0; }
API int cudnnBackendCreateDescriptor(int kind, Descriptor** descriptor) {
    ONE_AT_A_TIME;
    ++things;
    *descriptor = new Descriptor{std::make_shared<State>()};
    (*descriptor)->state->kind = kind;
    return 0;
}
API int cudnnBackendDestroyDescriptor(Descriptor* descriptor) {
    ONE_AT_A_TIME;
    --things;
    delete descriptor;
    return 0;
}
API int cudnnBackendSetAttribute(Descriptor* descriptor, int name, int type, long long count, const void* values) {
    if (descriptor->state->finished) mistake("a finished descriptor is changed");
    Attribute& attribute = descriptor->state->attributes[name] = Attribute{type, std::string((const char*)values, count * size_of(type)), {}};
    for (long long i = 0; type == TYPE_DESCRIPTOR && i < count; ++i) {
        Shared part = ((Descriptor* const*)values)[i]->state;
        if (!part->finished) mistake("an unfinished descriptor is made use of");
        attribute.parts.push_back(part);
    }
    return 0;
}

struct Tensor {
    long long name;
    std::vector<long long> sizes, strides;
    bool brain, hidden;
    char* data = nullptr;

    explicit Tensor(const Shared& state) {
        name = state->integers(906).at(0);
        sizes = state->integers(902);
        strides = state->integers(903);
        int type = state->values<int>(901, 1).at(0);
        if (type != DATA_FLOAT && type != DATA_BF16) mistake("a tensor of another type");
        brain = type == DATA_BF16;
        hidden = state->attributes.count(907) && state->get(907, TYPE_BOOLEAN).bytes[0];
        if (!hidden && state->integers(900).at(0) != 16) mistake("a tensor's alignment");
    }
    size_t bytes() const {
        size_t last = 0;
        for (int i = 0; i < 4; ++i) last += (sizes[i] - 1) * strides[i];
        return (last + 1) * (brain ? 2 : 4);
    }
    size_t at(long long n, long long c, long long h, long long w) const {
        return n * strides[0] + c * strides[1] + h * strides[2] + w * strides[3];
    }
    Layout elements() const { return Layout{brain ? BF16 : FLOAT, 0, 0, 0}; }
};

// The operations of a graph in order, as (kind, tensors x, w and y or the summands and their sum).
struct Operations {
    int kind;
    std::vector<Tensor> tensors;
    std::vector<Tensor> sum;
    std::vector<long long> before, after, strides;

    explicit Operations(const Shared& graph) {
        const std::vector<Shared>& all = graph->get(801, TYPE_DESCRIPTOR).parts;
        const Shared& first = all.at(0);
        kind = first->kind;
        const int bases[] = {700, 712, 706}, names[3][3] = {{704, 703, 705}, {716, 715, 717}, {710, 709, 711}};
        if (kind < KIND_FORWARD || kind > KIND_DATA) mistake("a graph of another operation");
        int which = kind - KIND_FORWARD;
        if (first->values<float>(bases[which], TYPE_FLOAT).at(0) != 1 || first->values<float>(bases[which] + 1, TYPE_FLOAT).at(0) != 0) {
            mistake("a convolution's factors");
        }
        Shared convolution = first->part(bases[which] + 2);
        if (convolution->values<int>(101, 7).at(0) != 1 || convolution->values<int>(100, 1).at(0) != DATA_FLOAT ||
            convolution->integers(102) != std::vector<long long>{1, 1} || convolution->integers(106).at(0) != 2) {
            mistake("a convolution's attributes");
        }
        before = convolution->integers(105), after = convolution->integers(104), strides = convolution->integers(103);
        for (int name : names[which]) tensors.emplace_back(first->part(name));
        if (all.size() > 1) {
            const Shared& second = all.at(1);
            if (second->kind != KIND_POINTWISE || second->part(750)->values<int>(0, 14).at(0) != 0) mistake("another operation than a sum");
            for (int name : {751, 752, 753}) sum.emplace_back(second->part(name));
            if (sum[0].name != tensors[2].name || !sum[0].hidden) mistake("a sum of something else");
        }
        const Tensor &x = tensors[0], &w = tensors[1], &y = tensors[2];
        for (int side = 0; side < 2; ++side) {
            long long positions = (x.sizes[2 + side] + before[side] + after[side] - w.sizes[2 + side]) / strides[side] + 1;
            if (positions != y.sizes[2 + side]) mistake("a convolution's sizes do not fit");
        }
        if (x.sizes[0] != y.sizes[0] || x.sizes[1] != w.sizes[1] || y.sizes[1] != w.sizes[0]) mistake("a convolution's channels do not fit");
    }

    // Some it does not take.
    bool supported() const { return tensors[1].sizes[2] != 2; }

    void run() const {
        Tensor x = tensors[0], w = tensors[1], y = tensors[2];
        Tensor result = kind == KIND_FORWARD ? y : kind == KIND_DATA ? x : w;
        // What no position reads has no gradient: 0.
        std::vector<double> totals(result.bytes() / (result.brain ? 2 : 4));
        for (long long n = 0; n < y.sizes[0]; ++n)
            for (long long o = 0; o < y.sizes[1]; ++o)
                for (long long row = 0; row < y.sizes[2]; ++row)
                    for (long long column = 0; column < y.sizes[3]; ++column)
                        for (long long kh = 0; kh < w.sizes[2]; ++kh)
                            for (long long kw = 0; kw < w.sizes[3]; ++kw) {
                                long long h = row * strides[0] + kh - before[0], v = column * strides[1] + kw - before[1];
                                bool inside = h >= 0 && h < x.sizes[2] && v >= 0 && v < x.sizes[3];
                                for (long long c = 0; c < x.sizes[1]; ++c) {
                                    size_t in_y = y.at(n, o, row, column), in_w = w.at(o, c, kh, kw), in_x = x.at(n, c, h, v);
                                    auto read = [](const Tensor& t, size_t i) { return (double)t.elements().read(t.data, i); };
                                    if (kind == KIND_FORWARD) {
                                        totals[in_y] += inside ? read(x, in_x) * read(w, in_w) : 0;
                                    } else if (kind == KIND_DATA) {
                                        if (inside) totals[in_x] += read(y, in_y) * read(w, in_w);
                                    } else {
                                        totals[in_w] += inside ? read(x, in_x) * read(y, in_y) : 0;
                                    }
                                }
                            }
        for (size_t at = 0; at < totals.size(); ++at) {
            if (sum.empty()) {
                result.elements().write(result.data, at, (float)totals[at]);
            } else {
                sum[2].elements().write(sum[2].data, at, (float)totals[at] + sum[1].elements().read(sum[1].data, at % y.sizes[1]));
            }
        }
    }
};

// What lies behind a plan, or what leads to one: the graph.
static Shared graph_of(const Shared& state) {
    for (int name : {401, 300, 201, 1300}) {
        if (state->attributes.count(name)) return graph_of(state->part(name));
    }
    return state;
}

API int cudnnBackendFinalize(Descriptor* descriptor) {
    State& state = *descriptor->state;
    if (state.finished) mistake("a descriptor is finished twice");
    state.finished = true;
    if (state.kind == KIND_GRAPH) Operations checked(descriptor->state);
    return 0;
}
API int cudnnBackendGetAttribute(Descriptor* descriptor, int name, int type, long long room, long long* count, void* values) {
    if (!descriptor->state->finished) mistake("an unfinished descriptor is read");
    auto lead = [&](Descriptor* to, int by) {
        to->state->attributes[by] = Attribute{TYPE_DESCRIPTOR, "", {graph_of(descriptor->state)}};
        to->state->finished = true;
    };
    switch (name) {
        case 202:
            *count = Operations(graph_of(descriptor->state)).supported();
            for (long long i = 0; i < room && i < *count; ++i) lead(((Descriptor**)values)[i], 300);
            return 0;
        case 300: return *count = 1, lead(*(Descriptor**)values, 1300), 0;
        case 1303: case 1305: return *count = 0;
        case 402: return *count = 1, *(long long*)values = 1001, 0;
    }
    (void)type;
    mistake("another attribute is asked for");
}
API int cudnnBackendExecute(Stream** handle, Descriptor* plan, Descriptor* pack) {
    ONE_AT_A_TIME;
    if (!plan->state->finished || !pack->state->finished) mistake("an unfinished plan");
    Operations operations(graph_of(plan->state));
    std::vector<long long> names = pack->state->integers(1000);
    std::vector<char*> places = pack->state->values<char*>(1001, TYPE_ADDRESS);
    if (names.size() != places.size()) mistake("names without addresses");
    if (!lies_in(memory, (Address)pack->state->values<char*>(1003, TYPE_ADDRESS).at(0), 1001)) mistake("a workspace that is too small");
    for (std::vector<Tensor>* list : {&operations.tensors, &operations.sum}) {
        for (Tensor& tensor : *list) {
            if (tensor.hidden) continue;
            for (size_t i = 0; i < names.size(); ++i) {
                if (names[i] == tensor.name) tensor.data = places[i];
            }
            if (!lies_in(memory, (Address)tensor.data, tensor.bytes())) mistake("a tensor that is not in the device's memory");
            if ((Address)tensor.data % 16) mistake("a tensor is not aligned as was promised");
        }
    }
    (*handle)->add([=] { operations.run(); });
    return 0;
}
