/*
 * The first process of a client: its first action is to look whether its routes are there.
 *
 *   probe GATEWAY4 COUNT4 GATEWAY6 COUNT6 LIMIT_MS EVERYTHING
 *
 * The gateways are spelled as the kernel lists them in /proc/net/route and /proc/net/ipv6_route.
 * It looks until each has as many routes as counted and, if EVERYTHING is 1, the kernel sends what is
 * for anybody to GATEWAY4, or the limit is over, writes one line of JSON and then waits to be killed. Without a C library, so that nothing comes before the look:
 *
 *   gcc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o probe probe.c
 */

typedef unsigned long word;

struct timespec {
    long seconds, nanoseconds;
};

enum { REALTIME = 0, AT_FDCWD = -100, STDOUT = 1, PAUSE_NS = 200 * 1000 };

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, CLOSE = 3, NANOSLEEP = 35, SOCKET = 41 };
enum { CLOCK_GETTIME = 228, OPENAT = 257 };

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");

static long call(long number, word a, word b, word c, word d)
{
    long result;
    register word fourth __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
enum { READ = 63, WRITE = 64, CLOSE = 57, NANOSLEEP = 101, SOCKET = 198 };
enum { CLOCK_GETTIME = 113, OPENAT = 56 };

__asm__(".globl _start\n_start: mov x0, sp\n bl begin\n");

static long call(long number, word a, word b, word c, word d)
{
    register word first __asm__("x0") = a, second __asm__("x1") = b;
    register word third __asm__("x2") = c, fourth __asm__("x3") = d;
    register long eighth __asm__("x8") = number;
    __asm__ volatile("svc 0"
                     : "+r"(first)
                     : "r"(second), "r"(third), "r"(fourth), "r"(eighth)
                     : "memory");
    return (long)first;
}
#else
#error "no system calls written down for this machine"
#endif

static long now(void)
{
    struct timespec time;
    call(CLOCK_GETTIME, REALTIME, (word)&time, 0, 0);
    return time.seconds * 1000000000L + time.nanoseconds;
}

static char table[1 << 16];

static void load(const char *path)
{
    long size = 0, got = 0;
    long file = call(OPENAT, (word)AT_FDCWD, (word)path, 0, 0);
    if (file >= 0) {
        do {
            size += got;
            got = call(READ, (word)file, (word)(table + size), sizeof table - 1 - (word)size, 0);
        } while (got > 0);
        call(CLOSE, (word)file, 0, 0, 0);
    }
    table[size] = 0;
}

/* Counts the lines of a table whose field at a position, from 0, is this word. */
static long count(const char *path, int position, const char *word)
{
    long found = 0;
    load(path);
    for (const char *at = table; *at;) {
        for (int field = 0; *at && *at != '\n'; field++) {
            while (*at == ' ' || *at == '\t')
                at++;
            const char *expected = word;
            while (*expected && *at == *expected)
                at++, expected++;
            if (field == position && !*expected && (*at == ' ' || *at == '\t'))
                found++;
            while (*at && *at != ' ' && *at != '\t' && *at != '\n')
                at++;
        }
        if (*at)
            at++;
    }
    return found;
}

/* RTM_GETROUTE for 192.0.2.1, as rtnetlink(7) has it: is the next hop that gateway? */
static int leads_to(unsigned int gateway)
{
    struct {
        unsigned int length;
        unsigned short kind, flags;
        unsigned int sequence, port;
        unsigned char family, dst_length, rest[6];
        unsigned int route_flags;
        unsigned short attribute_length, attribute;
        unsigned char dst[4];
    } request = {36, 26, 1, 1, 0, 2, 32, {0}, 0, 8, 1, {192, 0, 2, 1}};
    long socket = call(SOCKET, 16, 3, 0, 0);
    call(WRITE, socket, (word)&request, sizeof request, 0);
    long size = call(READ, socket, (word)table, sizeof table, 0);
    call(CLOSE, socket, 0, 0, 0);
    for (long at = 28; at + 8 <= size && *(unsigned short *)(table + 4) == 24;) {
        unsigned short length = *(unsigned short *)(table + at);
        if (*(unsigned short *)(table + at + 2) == 5)
            return *(unsigned int *)(table + at + 4) == gateway;
        at += length < 4 ? size : (length + 3) & ~3;
    }
    return 0;
}

static unsigned int hexadecimal(const char *digits)
{
    unsigned int value = 0;
    for (; *digits; digits++)
        value = value * 16 + (*digits <= '9' ? *digits - '0' : *digits - 'A' + 10);
    return value;
}

static long number(const char *digits)
{
    long value = 0;
    while (*digits)
        value = value * 10 + (*digits++ - '0');
    return value;
}

static char line[256];
static int length;

static void say(const char *text)
{
    while (*text)
        line[length++] = *text++;
}

static void say_number(long value)
{
    char digits[24];
    int size = 0;
    do
        digits[size++] = (char)('0' + value % 10);
    while (value /= 10);
    while (size)
        line[length++] = digits[--size];
}

__attribute__((used)) void begin(const word *stack)
{
    const long first_look = now();
    const char *const *arguments = (const char *const *)(stack + 2);
    const struct timespec pause = {0, PAUSE_NS}, hour = {3600, 0};
    const long count4 = number(arguments[1]), count6 = number(arguments[3]);
    const int everything = *arguments[5] == '1';
    const long limit = first_look + number(arguments[4]) * 1000000L;
    long looks = 0, present = 0;
    for (;;) {
        int all = count("/proc/net/route", 2, arguments[0]) >= count4;
        if (count6)
            all = count("/proc/net/ipv6_route", 4, arguments[2]) >= count6 && all;
        if (everything)
            all = leads_to(hexadecimal(arguments[0])) && all;
        long time = now();
        looks++;
        if (all)
            present = time;
        if (all || time > limit)
            break;
        call(NANOSLEEP, (word)&pause, 0, 0, 0);
    }
    say("{\"first_look_ns\": ");
    say_number(first_look);
    say(", \"present_at_ns\": ");
    if (present)
        say_number(present);
    else
        say("null");
    say(", \"in_time\": ");
    say(present && looks == 1 ? "true}\n" : "false}\n");
    call(WRITE, STDOUT, (word)line, (word)length, 0);
    for (;;)
        call(NANOSLEEP, (word)&hour, 0, 0, 0);
}
