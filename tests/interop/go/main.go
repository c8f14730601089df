// The battery with AWS's SDK v2 for Go, as it comes: clients have their defaults and what the environment says.
// A line for each operation: its name, `ok` or `FAIL`, and what was wrong, between tabs.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	ktypes "github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
)

var (
	name     string
	streams  *kinesis.Client
	tables   *dynamodb.Client
	objects  *s3.Client
	warnings []string
)

func refused(code string, err error) error {
	var problem smithy.APIError
	if errors.As(err, &problem) && problem.ErrorCode() == code {
		return nil
	}
	return fmt.Errorf("%v instead of %s", err, code)
}

func equal(have, want any) error {
	if fmt.Sprint(have) != fmt.Sprint(want) {
		return fmt.Errorf("%v instead of %v", have, want)
	}
	return nil
}

// First of the errors.
func all(some ...error) error {
	for _, err := range some {
		if err != nil {
			return err
		}
	}
	return nil
}

func stream(ctx context.Context, called string, tags map[string]string) (*string, error) {
	_, err := streams.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: &called, ShardCount: aws.Int32(2), Tags: tags})
	if err != nil {
		return nil, err
	}
	found, err := streams.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: &called})
	if err != nil {
		return nil, err
	}
	return found.StreamDescriptionSummary.StreamARN, nil
}

func iterator(ctx context.Context, kind ktypes.ShardIteratorType, at *time.Time) (*string, error) {
	found, err := streams.GetShardIterator(ctx, &kinesis.GetShardIteratorInput{StreamName: &name,
		ShardId: aws.String("shardId-000000000000"), ShardIteratorType: kind, Timestamp: at})
	if err != nil {
		return nil, err
	}
	return found.ShardIterator, nil
}

func kinesisPut(ctx context.Context) error {
	if _, err := stream(ctx, name, nil); err != nil {
		return err
	}
	_, err := streams.PutRecord(ctx, &kinesis.PutRecordInput{StreamName: &name, Data: []byte("x"), PartitionKey: aws.String("k")})
	var many []ktypes.PutRecordsRequestEntry
	for at := range 501 {
		many = append(many, ktypes.PutRecordsRequestEntry{Data: []byte("x"), PartitionKey: aws.String(fmt.Sprint("k", at))})
	}
	_, some := streams.PutRecords(ctx, &kinesis.PutRecordsInput{StreamName: &name, Records: many[:500]})
	_, over := streams.PutRecords(ctx, &kinesis.PutRecordsInput{StreamName: &name, Records: many})
	return all(err, some, refused("ValidationException", over))
}

func kinesisErrors(ctx context.Context) error {
	_, nobody := streams.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("nobody")})
	_, bad := streams.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: aws.String("bad")})
	limits, err := streams.DescribeLimits(ctx, &kinesis.DescribeLimitsInput{})
	if err := all(err, refused("ResourceNotFoundException", nobody), refused("InvalidArgumentException", bad)); err != nil {
		return err
	}
	if id, _ := middleware.GetRequestIDMetadata(limits.ResultMetadata); id == "" {
		return errors.New("no request id")
	}
	return nil
}

func kinesisRead(ctx context.Context) error {
	from, err := iterator(ctx, ktypes.ShardIteratorTypeTrimHorizon, nil)
	if err != nil {
		return err
	}
	page, err := streams.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: from, Limit: aws.Int32(3)})
	if err != nil {
		return err
	}
	from, err = iterator(ctx, ktypes.ShardIteratorTypeAtTimestamp, aws.Time(time.Now().Add(-time.Hour)))
	if err != nil {
		return err
	}
	past, err := streams.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: from})
	if err != nil {
		return err
	}
	return all(equal(len(page.Records), 3), equal(len(past.Records) > 3, true))
}

func kinesisListShards(ctx context.Context) error {
	first, err := streams.ListShards(ctx, &kinesis.ListShardsInput{StreamName: &name, MaxResults: aws.Int32(1)})
	if err != nil {
		return err
	}
	next, err := streams.ListShards(ctx, &kinesis.ListShardsInput{NextToken: first.NextToken})
	_, both := streams.ListShards(ctx, &kinesis.ListShardsInput{StreamName: &name, NextToken: first.NextToken})
	if err != nil {
		return err
	}
	return all(equal(len(next.Shards), 1), refused("InvalidArgumentException", both))
}

func kinesisDescribe(ctx context.Context) error {
	one, err := streams.DescribeStream(ctx, &kinesis.DescribeStreamInput{StreamName: &name, Limit: aws.Int32(1)})
	if err != nil {
		return err
	}
	return equal([]any{len(one.StreamDescription.Shards), *one.StreamDescription.HasMoreShards}, []any{1, true})
}

func kinesisListStreams(ctx context.Context) error {
	found := 0
	for at := range 12 {
		called := fmt.Sprintf("%s-list-%d", name, at)
		if _, err := stream(ctx, called, nil); err != nil {
			return err
		}
		defer streams.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: &called})
	}
	for pages := kinesis.NewListStreamsPaginator(streams, &kinesis.ListStreamsInput{Limit: aws.Int32(5)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, one := range page.StreamNames {
			if strings.HasPrefix(one, name+"-list-") {
				found++
			}
		}
	}
	return equal(found, 12)
}

func kinesisConsumer(ctx context.Context) error {
	found, err := streams.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: &name})
	if err != nil {
		return err
	}
	arn := found.StreamDescriptionSummary.StreamARN
	one, err := streams.RegisterStreamConsumer(ctx, &kinesis.RegisterStreamConsumerInput{StreamARN: arn, ConsumerName: aws.String("one")})
	if err != nil {
		return err
	}
	_, twice := streams.RegisterStreamConsumer(ctx, &kinesis.RegisterStreamConsumerInput{StreamARN: arn, ConsumerName: aws.String("one")})
	_, err = streams.DeregisterStreamConsumer(ctx, &kinesis.DeregisterStreamConsumerInput{ConsumerARN: one.Consumer.ConsumerARN})
	return all(refused("ResourceInUseException", twice), err)
}

func kinesisSubscribe(ctx context.Context) error {
	arn, err := stream(ctx, name+"-push", nil)
	if err != nil {
		return err
	}
	one, err := streams.RegisterStreamConsumer(ctx, &kinesis.RegisterStreamConsumerInput{StreamARN: arn, ConsumerName: aws.String("push")})
	if err != nil {
		return err
	}
	_, err = streams.PutRecord(ctx, &kinesis.PutRecordInput{StreamARN: arn, Data: []byte("pushed"), PartitionKey: aws.String("k"),
		ExplicitHashKey: aws.String("0")})
	if err != nil {
		return err
	}
	got, err := streams.SubscribeToShard(ctx, &kinesis.SubscribeToShardInput{ConsumerARN: one.Consumer.ConsumerARN,
		ShardId:          aws.String("shardId-000000000000"),
		StartingPosition: &ktypes.StartingPosition{Type: ktypes.ShardIteratorTypeTrimHorizon}})
	if err != nil {
		return err
	}
	defer got.GetStream().Close()
	for event := range got.GetStream().Events() {
		records := event.(*ktypes.SubscribeToShardEventStreamMemberSubscribeToShardEvent).Value.Records
		if len(records) > 0 {
			return equal(string(records[0].Data), "pushed")
		}
	}
	return errors.New("no record")
}

func kinesisReshard(ctx context.Context) error {
	arn, err := stream(ctx, name+"-shards", nil)
	if err != nil {
		return err
	}
	_, merge := streams.MergeShards(ctx, &kinesis.MergeShardsInput{StreamARN: arn, ShardToMerge: aws.String("shardId-000000000000"),
		AdjacentShardToMerge: aws.String("shardId-000000000001")})
	_, split := streams.SplitShard(ctx, &kinesis.SplitShardInput{StreamARN: arn, ShardToSplit: aws.String("shardId-000000000002"),
		NewStartingHashKey: aws.String("170141183460469231731687303715884105728")})
	_, count := streams.UpdateShardCount(ctx, &kinesis.UpdateShardCountInput{StreamARN: arn, TargetShardCount: aws.Int32(1),
		ScalingType: ktypes.ScalingTypeUniformScaling})
	return all(merge, split, count)
}

func kinesisRetention(ctx context.Context) error {
	_, up := streams.IncreaseStreamRetentionPeriod(ctx, &kinesis.IncreaseStreamRetentionPeriodInput{StreamName: &name, RetentionPeriodHours: aws.Int32(48)})
	_, wrong := streams.IncreaseStreamRetentionPeriod(ctx, &kinesis.IncreaseStreamRetentionPeriodInput{StreamName: &name, RetentionPeriodHours: aws.Int32(30)})
	_, down := streams.DecreaseStreamRetentionPeriod(ctx, &kinesis.DecreaseStreamRetentionPeriodInput{StreamName: &name, RetentionPeriodHours: aws.Int32(24)})
	return all(up, refused("InvalidArgumentException", wrong), down)
}

func kinesisTags(ctx context.Context) error {
	arn, err := stream(ctx, name+"-tags", map[string]string{"made": "here"})
	if err != nil {
		return err
	}
	found, err := streams.ListTagsForStream(ctx, &kinesis.ListTagsForStreamInput{StreamARN: arn})
	if err != nil {
		return err
	}
	return equal(len(found.Tags), 1)
}

func kinesisDelete(ctx context.Context) error {
	arn, err := stream(ctx, name+"-gone", nil)
	if err != nil {
		return err
	}
	_, err = streams.RegisterStreamConsumer(ctx, &kinesis.RegisterStreamConsumerInput{StreamARN: arn, ConsumerName: aws.String("c")})
	_, wrong := streams.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamARN: arn})
	_, _ = streams.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamARN: arn, EnforceConsumerDeletion: aws.Bool(true)})
	return all(err, refused("ResourceInUseException", wrong))
}

func text(value string) dtypes.AttributeValue { return &dtypes.AttributeValueMemberS{Value: value} }

func dynamodbTable(ctx context.Context) error {
	_, err := tables.CreateTable(ctx, &dynamodb.CreateTableInput{TableName: &name, BillingMode: dtypes.BillingModePayPerRequest,
		KeySchema: []dtypes.KeySchemaElement{{AttributeName: aws.String("a"), KeyType: dtypes.KeyTypeHash}},
		AttributeDefinitions: []dtypes.AttributeDefinition{{AttributeName: aws.String("a"), AttributeType: dtypes.ScalarAttributeTypeS},
			{AttributeName: aws.String("b"), AttributeType: dtypes.ScalarAttributeTypeS}},
		GlobalSecondaryIndexes: []dtypes.GlobalSecondaryIndex{{IndexName: aws.String("by-b"),
			KeySchema:  []dtypes.KeySchemaElement{{AttributeName: aws.String("b"), KeyType: dtypes.KeyTypeHash}},
			Projection: &dtypes.Projection{ProjectionType: dtypes.ProjectionTypeAll}}}})
	if err != nil {
		return err
	}
	err = dynamodb.NewTableExistsWaiter(tables).Wait(ctx, &dynamodb.DescribeTableInput{TableName: &name}, time.Minute)
	if err == nil && len(warnings) > 0 {
		return fmt.Errorf("the SDK warns: %s", warnings[0])
	}
	return err
}

func dynamodbCondition(ctx context.Context) error {
	_, err := tables.PutItem(ctx, &dynamodb.PutItemInput{TableName: &name, Item: map[string]dtypes.AttributeValue{"a": text("1"), "b": text("x")}})
	if err != nil {
		return err
	}
	_, err = tables.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: &name, Key: map[string]dtypes.AttributeValue{"a": text("1")},
		UpdateExpression: aws.String("SET b = :n"), ConditionExpression: aws.String("b = :o"),
		ReturnValuesOnConditionCheckFailure: dtypes.ReturnValuesOnConditionCheckFailureAllOld,
		ExpressionAttributeValues:           map[string]dtypes.AttributeValue{":n": text("y"), ":o": text("z")}})
	var failed *dtypes.ConditionalCheckFailedException
	if !errors.As(err, &failed) {
		return fmt.Errorf("%v instead of a failed condition", err)
	}
	return equal(len(failed.Item), 2)
}

func dynamodbTransact(ctx context.Context) error {
	put := &dynamodb.TransactWriteItemsInput{TransactItems: []dtypes.TransactWriteItem{{Put: &dtypes.Put{TableName: &name,
		Item: map[string]dtypes.AttributeValue{"a": text("2")}, ConditionExpression: aws.String("attribute_not_exists(a)")}}}}
	_, err := tables.TransactWriteItems(ctx, put)
	put.ClientRequestToken = nil
	_, again := tables.TransactWriteItems(ctx, put)
	var cancelled *dtypes.TransactionCanceledException
	if !errors.As(again, &cancelled) {
		return fmt.Errorf("%v instead of a cancelled transaction", again)
	}
	return all(err, equal(*cancelled.CancellationReasons[0].Code, "ConditionalCheckFailed"))
}

func dynamodbQuery(ctx context.Context) error {
	found, err := tables.Query(ctx, &dynamodb.QueryInput{TableName: &name, IndexName: aws.String("by-b"),
		KeyConditionExpression: aws.String("b = :b"), ExpressionAttributeValues: map[string]dtypes.AttributeValue{":b": text("x")}})
	if err != nil {
		return err
	}
	count := 0
	for pages := dynamodb.NewScanPaginator(tables, &dynamodb.ScanInput{TableName: &name, Limit: aws.Int32(1)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		count += int(page.Count)
	}
	return all(equal(found.Count, 1), equal(count, 2))
}

func s3PutGet(ctx context.Context) error {
	_, err := objects.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name})
	if err != nil {
		return err
	}
	_, err = objects.PutObject(ctx, &s3.PutObjectInput{Bucket: &name, Key: aws.String("a"), Body: strings.NewReader("hello"),
		ChecksumAlgorithm: s3types.ChecksumAlgorithmSha256})
	if err != nil {
		return err
	}
	found, err := objects.GetObject(ctx, &s3.GetObjectInput{Bucket: &name, Key: aws.String("a")})
	if err != nil {
		return err
	}
	body, err := io.ReadAll(found.Body)
	head, failed := objects.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &name, Key: aws.String("a"), ChecksumMode: s3types.ChecksumModeEnabled})
	if err := all(err, failed, equal(string(body), "hello")); err != nil {
		return err
	}
	return equal(head.ChecksumType, "FULL_OBJECT")
}

func s3IfNoneMatch(ctx context.Context) error {
	_, err := objects.PutObject(ctx, &s3.PutObjectInput{Bucket: &name, Key: aws.String("a"), Body: strings.NewReader("x"), IfNoneMatch: aws.String("*")})
	return refused("PreconditionFailed", err)
}

func s3ConditionalGet(ctx context.Context) error {
	_, err := objects.GetObject(ctx, &s3.GetObjectInput{Bucket: &name, Key: aws.String("a"), IfMatch: aws.String(`"wrong"`)})
	return refused("PreconditionFailed", err)
}

func s3Range(ctx context.Context) error {
	_, err := objects.GetObject(ctx, &s3.GetObjectInput{Bucket: &name, Key: aws.String("a"), Range: aws.String("bytes=90-99")})
	return refused("InvalidRange", err)
}

func s3Multipart(ctx context.Context) error {
	_, err := manager.NewUploader(objects).Upload(ctx, &s3.PutObjectInput{Bucket: &name, Key: aws.String("many/parts"),
		Body: bytes.NewReader(make([]byte, 16_000_000))})
	if err != nil {
		return err
	}
	head, err := objects.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &name, Key: aws.String("many/parts")})
	if err != nil {
		return err
	}
	return equal(*head.ContentLength, 16_000_000)
}

func s3List(ctx context.Context) error {
	count := 0
	for pages := s3.NewListObjectsV2Paginator(objects, &s3.ListObjectsV2Input{Bucket: &name, MaxKeys: aws.Int32(1)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		count += len(page.Contents)
	}
	return equal(count, 2)
}

func s3ListV1(ctx context.Context) error {
	_, err := objects.ListObjects(ctx, &s3.ListObjectsInput{Bucket: &name})
	return err
}

func s3Presigned(ctx context.Context) error {
	signed := func(lasts time.Duration) (string, error) {
		found, err := s3.NewPresignClient(objects).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &name, Key: aws.String("a")},
			s3.WithPresignExpires(lasts))
		if err != nil {
			return "", err
		}
		return found.URL, nil
	}
	for lasts, status := range map[time.Duration]int{time.Minute: 200, time.Second: 403} {
		url, err := signed(lasts)
		if err != nil {
			return err
		}
		if lasts == time.Second {
			time.Sleep(2500 * time.Millisecond)
		}
		answer, err := http.Get(url)
		if err != nil {
			return err
		}
		answer.Body.Close()
		if err := equal(answer.StatusCode, status); err != nil {
			return err
		}
	}
	return nil
}

func s3Copy(ctx context.Context) error {
	_, err := objects.CopyObject(ctx, &s3.CopyObjectInput{Bucket: &name, Key: aws.String("copy"), CopySource: aws.String(name + "/a")})
	return err
}

func s3Delete(ctx context.Context) error {
	var some []s3types.ObjectIdentifier
	for _, key := range []string{"a", "copy", "many/parts"} {
		some = append(some, s3types.ObjectIdentifier{Key: aws.String(key)})
	}
	_, err := objects.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &name, Delete: &s3types.Delete{Objects: some, Quiet: aws.Bool(true)}})
	_, gone := objects.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &name})
	return all(err, gone)
}

func main() {
	name = "battery-" + os.Args[1]
	logger := logging.LoggerFunc(func(_ logging.Classification, format string, values ...any) {
		warnings = append(warnings, fmt.Sprintf(format, values...))
	})
	settings, err := config.LoadDefaultConfig(context.Background(), config.WithLogger(logger))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	streams, tables, objects = kinesis.NewFromConfig(settings), dynamodb.NewFromConfig(settings), s3.NewFromConfig(settings)
	identity := func(ctx context.Context) error {
		_, err := sts.NewFromConfig(settings).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		return err
	}
	for _, each := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"kinesis-put", kinesisPut}, {"kinesis-errors", kinesisErrors}, {"kinesis-read", kinesisRead},
		{"kinesis-list-shards", kinesisListShards}, {"kinesis-describe", kinesisDescribe},
		{"kinesis-list-streams", kinesisListStreams}, {"kinesis-consumer", kinesisConsumer},
		{"kinesis-subscribe", kinesisSubscribe}, {"kinesis-reshard", kinesisReshard}, {"kinesis-retention", kinesisRetention},
		{"kinesis-tags", kinesisTags}, {"kinesis-delete", kinesisDelete}, {"dynamodb-table", dynamodbTable},
		{"dynamodb-condition", dynamodbCondition}, {"dynamodb-transact", dynamodbTransact}, {"dynamodb-query", dynamodbQuery},
		{"s3-put-get", s3PutGet}, {"s3-if-none-match", s3IfNoneMatch}, {"s3-conditional-get", s3ConditionalGet},
		{"s3-range", s3Range}, {"s3-multipart", s3Multipart}, {"s3-list", s3List}, {"s3-list-v1", s3ListV1},
		{"s3-presigned", s3Presigned}, {"s3-copy", s3Copy}, {"s3-delete", s3Delete}, {"sts-identity", identity},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if err := each.run(ctx); err != nil {
			fmt.Printf("%s\tFAIL\t%.200s\n", each.name, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Printf("%s\tok\t\n", each.name)
		}
		cancel()
	}
}
