/* Load for a TURN server: ChannelData from clients and datagrams from peers, paced, every packet checked.
 *
 * Sockets are inherited: each stream has a client socket (connected to the server), a channel bound on it, a peer
 * socket and the relayed port.  Packets alternate between the two directions and go round the streams.
 *
 *   turn_load RATE SECONDS PAYLOAD STREAMS [CLIENT_FD CHANNEL PEER_FD RELAYED_PORT]...
 *
 * Prints: sent received wrong duplicates seconds
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define MAX_STREAMS 64
#define MAX_PAYLOAD 1400

struct stream {
    int client, peer;
    uint16_t channel;
    struct sockaddr_in relayed;
};

static struct stream streams[MAX_STREAMS];
static int count, payload;
static uint64_t sent, received, wrong, duplicates;
static uint8_t *seen;
static uint64_t total;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Every byte of a packet follows from its number, so any damage or mix-up shows. */
static void fill(uint8_t *p, uint32_t number) {
    memcpy(p, &number, 4);
    for (int i = 4; i < payload; i++) p[i] = (uint8_t)(number * 31u + (uint32_t)i);
}

static void check(const uint8_t *p, ssize_t length, int stream, int down) {
    uint8_t expected[MAX_PAYLOAD];
    uint32_t number;
    received++;
    if (length != payload) { wrong++; return; }
    memcpy(&number, p, 4);
    if (number >= sent || (int)(number % 2) != down || (int)(number / 2 % (uint32_t)count) != stream) { wrong++; return; }
    fill(expected, number);
    if (memcmp(p, expected, (size_t)payload)) { wrong++; return; }
    if (seen[number]) duplicates++;
    seen[number] = 1;
}

static void drain(void) {
    uint8_t buffer[2048];
    ssize_t length;
    for (int i = 0; i < count; i++) {
        while ((length = recv(streams[i].client, buffer, sizeof buffer, MSG_DONTWAIT)) >= 0) {
            uint16_t channel, announced;
            if (length < 4) { received++; wrong++; continue; }
            memcpy(&channel, buffer, 2);
            memcpy(&announced, buffer + 2, 2);
            if (ntohs(channel) != streams[i].channel || ntohs(announced) != length - 4) { received++; wrong++; continue; }
            check(buffer + 4, length - 4, i, 1);
        }
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        while ((length = recvfrom(streams[i].peer, buffer, sizeof buffer, MSG_DONTWAIT, (void *)&from, &size)) >= 0) {
            if (from.sin_port != streams[i].relayed.sin_port) { received++; wrong++; continue; }
            check(buffer, length, i, 0);
        }
    }
}

static void send_next(void) {
    uint8_t buffer[4 + MAX_PAYLOAD];
    uint32_t number = (uint32_t)sent;
    struct stream *s = &streams[number / 2 % (uint32_t)count];
    fill(buffer + 4, number);
    ssize_t done;
    sent++;
    if (number % 2) {
        done = sendto(s->peer, buffer + 4, (size_t)payload, 0, (void *)&s->relayed, sizeof s->relayed);
    } else {
        uint16_t channel = htons(s->channel), length = htons((uint16_t)payload);
        memcpy(buffer, &channel, 2);
        memcpy(buffer + 2, &length, 2);
        done = send(s->client, buffer, (size_t)payload + 4, 0);
    }
    if (done < 0) { perror("send"); exit(1); }
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    double rate = atof(argv[1]), seconds = atof(argv[2]);
    payload = atoi(argv[3]);
    count = atoi(argv[4]);
    if (count < 1 || count > MAX_STREAMS || argc != 5 + 4 * count || payload < 8 || payload > MAX_PAYLOAD) return 2;
    for (int i = 0; i < count; i++) {
        char **a = argv + 5 + 4 * i;
        streams[i].client = atoi(a[0]);
        streams[i].channel = (uint16_t)atoi(a[1]);
        streams[i].peer = atoi(a[2]);
        streams[i].relayed.sin_family = AF_INET;
        streams[i].relayed.sin_port = htons((uint16_t)atoi(a[3]));
        streams[i].relayed.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    }
    total = (uint64_t)(rate * seconds);
    seen = calloc(total + 1, 1);
    if (!seen) return 1;
    uint64_t start = now_ns();
    while (sent < total) {
        uint64_t due = start + (uint64_t)((double)sent / rate * 1e9), now = now_ns();
        if (now < due) {
            struct timespec at = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        }
        send_next();
        drain();
    }
    uint64_t end = now_ns();
    /* What is still on its way gets half a second. */
    while (received < sent && now_ns() < end + 500000000u) {
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, NULL);
        drain();
    }
    printf("%llu %llu %llu %llu %.6f\n", (unsigned long long)sent, (unsigned long long)received,
           (unsigned long long)wrong, (unsigned long long)duplicates, (double)(end - start) / 1e9);
    return 0;
}
