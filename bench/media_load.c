/* Load for a media gateway: plays prepared datagrams, paced, and keeps what comes out and when.
 *
 * Sockets are inherited.  Streams come in pairs: what goes in by one comes out at the other.
 *
 *   media_load STREAMS PACKETS KEEP [FD PORT]... < packets > result
 *
 * stdin:  for each packet number, for each stream: length (2 octets, big endian) and the datagram, sent every 20 ms to
 *         127.0.0.1:PORT, the streams spread evenly over the interval.
 * stdout: for each stream the number received (4 octets, native), the median delay in microseconds (4), the number
 *         kept (4), and each kept one: length (4) and octets.  RTCP (second octet 192-223) is counted nowhere.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define INTERVAL 20000000u
#define MAX_DATAGRAM 1500

struct stream {
    int fd;
    struct sockaddr_in to;
    uint32_t received, kept;
    uint64_t *sent_at, *received_at;
    uint8_t *keep;
    uint32_t *keep_length;
};

static int streams, packets, keep;
static struct stream *all;
static uint8_t **data;
static uint16_t *length;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *need(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) { perror("calloc"); exit(2); }
    return memory;
}

static void take(struct stream *s) {
    uint8_t p[MAX_DATAGRAM];
    ssize_t n;
    while ((n = recv(s->fd, p, sizeof p, MSG_DONTWAIT)) > 0) {
        if (n > 1 && p[1] >= 192 && p[1] <= 223) continue;
        if (s->received < (uint32_t)packets) s->received_at[s->received] = now_ns();
        s->received++;
        if (s->kept < (uint32_t)keep) {
            memcpy(s->keep + (size_t)s->kept * MAX_DATAGRAM, p, (size_t)n);
            s->keep_length[s->kept++] = (uint32_t)n;
        }
    }
}

static int epoll;

static void wait_until(uint64_t until) {
    struct epoll_event events[64];
    for (;;) {
        uint64_t now = now_ns();
        struct timespec left = {0, 0};
        if (now < until) { left.tv_sec = (time_t)((until - now) / 1000000000u); left.tv_nsec = (long)((until - now) % 1000000000u); }
        int n = epoll_pwait2(epoll, events, 64, &left, NULL);
        if (n < 0 && errno != EINTR) { perror("epoll"); exit(2); }
        for (int i = 0; i < n; i++) take(&all[events[i].data.u32]);
        if (n <= 0 && now_ns() >= until) return;
        if (n > 0 && now_ns() >= until) return;
    }
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static uint32_t median_delay(const struct stream *in, const struct stream *out) {
    /* What is missing is missing at the beginning: a codec's first frame, an address not yet learnt. */
    if (!out->received || out->received > (uint32_t)packets) return 0;
    uint32_t first = (uint32_t)packets - out->received;
    int64_t *delays = need(out->received, sizeof *delays);
    for (uint32_t i = 0; i < out->received; i++) delays[i] = (int64_t)(out->received_at[i] - in->sent_at[first + i]);
    qsort(delays, out->received, sizeof *delays, by_value);
    int64_t median = delays[out->received / 2];
    free(delays);
    return median > 0 ? (uint32_t)(median / 1000) : 0;
}

static void put(uint32_t value) { fwrite(&value, 4, 1, stdout); }

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    streams = atoi(argv[1]), packets = atoi(argv[2]), keep = atoi(argv[3]);
    if (streams < 2 || streams % 2 || argc != 4 + 2 * streams) return 2;
    all = need((size_t)streams, sizeof *all);
    epoll = epoll_create1(0);
    for (int i = 0; i < streams; i++) {
        struct stream *s = &all[i];
        s->fd = atoi(argv[4 + 2 * i]);
        s->to.sin_family = AF_INET;
        s->to.sin_port = htons((uint16_t)atoi(argv[5 + 2 * i]));
        s->to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        s->sent_at = need((size_t)packets, 8);
        s->received_at = need((size_t)packets, 8);
        s->keep = need((size_t)keep, MAX_DATAGRAM);
        s->keep_length = need((size_t)keep, 4);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &event)) { perror("epoll_ctl"); return 2; }
    }
    size_t count = (size_t)streams * (size_t)packets;
    data = need(count, sizeof *data);
    length = need(count, sizeof *length);
    for (size_t i = 0; i < count; i++) {
        uint8_t head[2];
        if (fread(head, 2, 1, stdin) != 1) return 2;
        length[i] = (uint16_t)(head[0] << 8 | head[1]);
        data[i] = need(length[i], 1);
        if (length[i] && fread(data[i], length[i], 1, stdin) != 1) return 2;
    }
    uint64_t start = now_ns() + INTERVAL;
    for (int n = 0; n < packets; n++)
        for (int i = 0; i < streams; i++) {
            struct stream *s = &all[i];
            wait_until(start + (uint64_t)n * INTERVAL + (uint64_t)i * INTERVAL / (uint64_t)streams);
            size_t at = (size_t)n * (size_t)streams + (size_t)i;
            s->sent_at[n] = now_ns();
            if (length[at]) (void)!sendto(s->fd, data[at], length[at], 0, (struct sockaddr *)&s->to, sizeof s->to);
        }
    wait_until(now_ns() + 300000000u);
    for (int i = 0; i < streams; i++) {
        struct stream *s = &all[i];
        put(s->received);
        put(median_delay(&all[i ^ 1], s));
        put(s->kept);
        for (uint32_t k = 0; k < s->kept; k++) {
            put(s->keep_length[k]);
            fwrite(s->keep + (size_t)k * MAX_DATAGRAM, s->keep_length[k], 1, stdout);
        }
    }
    return 0;
}
